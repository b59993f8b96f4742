//! One worker: all maps of one source Connection and worker group.

mod budget;
mod ceiling;
mod command;
mod custody;
mod engine;
mod lane;
mod limits;
mod map;
mod objects;
mod plan;
mod reader;
mod refresh;
mod resolve;
mod rules;
pub mod status;
mod watch;
mod wish;
mod work;

pub use ceiling::{Bound, Ceilings};
pub use engine::{JoinFailure, Pace, fit};
pub use limits::Measures;
pub use objects::{Cluster, Objects};
pub use plan::Plan;
pub use resolve::{ResolveError, Resolver};
pub use work::{Context, Error, name, run};
