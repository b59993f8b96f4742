//! What is left of a deleted map.

/// What a clean-up could not reach until its deadline, and gave up.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Left(Vec<String>);

impl Left {
    /// For the condition `CleanedUp`, and for the event.
    #[must_use]
    pub fn message(&self) -> String {
        match &self.0[..] {
            [] => "Nothing of the map is left.".into(),
            left => format!("Left behind, since it could not be reached: {}.", left.join("; ")),
        }
    }

    /// What happens to one part. A failure counts only as long as it may still be mended.
    ///
    /// # Errors
    /// The same, unless it is late.
    pub fn note(
        &mut self,
        part: impl FnOnce() -> String,
        done: Result<(), String>,
        late: bool,
    ) -> Result<(), String> {
        match done {
            Err(why) if late => {
                tracing::warn!(%why, "a part of a clean-up is given up");
                self.0.push(part());
                Ok(())
            }
            done => done,
        }
    }
}
