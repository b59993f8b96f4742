//! A clock of programs that a test moves while they run.

use std::{io::Write, time::Duration};

/// Programs that are started with [`Clock::variable`] see the time of day as far ahead as this says.
pub struct Clock {
    folder: tempfile::TempDir,
    file: String,
    ahead: Duration,
}

impl Clock {
    pub fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let mut clock = Self {
            file: folder.path().join("seconds").display().to_string(),
            folder,
            ahead: Duration::ZERO,
        };
        clock.forward(Duration::ZERO);
        clock
    }

    /// Of a program's environment.
    pub fn variable(&self) -> (&str, &str) {
        ("TABLEMAP_CLOCK", &self.file)
    }

    /// From now on so much later than before.
    pub fn forward(&mut self, by: Duration) {
        self.ahead += by;
        // Renamed, since nobody may see half of it.
        let mut file = tempfile::NamedTempFile::new_in(self.folder.path()).unwrap();
        write!(file, "{}", self.ahead.as_secs()).unwrap();
        file.persist(&self.file).unwrap();
    }
}
