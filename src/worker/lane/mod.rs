//! One lane for each destination: everything that this worker writes there passes it, in source order.

mod connect;
mod feed;
mod growth;
mod merge;
mod order;
mod parents;
mod rate;
mod retry;
mod task;
mod whole;
mod window;
mod write;

pub use feed::Tail;
pub use merge::Passed;
pub use order::{Durable, Evicted, Mark, Notice, Order, Parcel, Retry};
pub use parents::{Stand, Stands};
pub use task::{Lane, Orders, Timeouts};
