//! What the engine has done beside itself: each an async function that ends as one event.

mod begin;
mod boot;
mod check;
mod look;
mod lost;

pub use begin::{Closed, Settled, begin, settle};
pub use boot::{Booted, boot, next_epoch};
pub use check::{Checked, check, fence, knock, look_at_custodians, probe};
pub use look::{Asked, ReadBack, SideNames, SourceState, look, read_back};
pub use lost::{errors_gone, held_by_nobody, queue_gone};
