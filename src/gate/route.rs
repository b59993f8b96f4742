//! Where a change goes.

/// Where a change of this map goes now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Route {
    /// Straight to the destination's lane.
    Lane,
    /// Held in memory for a moment, until the lane has given back what it had not flushed; then to the queue.
    Leaving,
    /// To the queue's tail.
    Queue,
    /// Held in memory, bounded, until the rest of the queue is flushed; then to the lane.
    Cutover,
    /// Not taken: the source keeps it, and the map's position freezes.
    Nowhere,
}

impl Route {
    /// No new change reaches the destination by this route.
    #[must_use]
    pub fn is_closed(self) -> bool {
        self != Self::Lane
    }
}
