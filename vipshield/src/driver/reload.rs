//! The configuration file, taken anew.

use log::warn;

use super::{Driver, DriverError};
use crate::{
    causes::causes,
    config::Reloaded,
    engine::{Event, Notice, Weight},
    status::Answer,
};

impl Driver {
    /// Takes the file anew, wholly or not at all, and says what came of it.
    pub(super) async fn reload(&mut self) -> Result<Answer, DriverError> {
        let file = self.parts.reloader.path().display().to_string();
        let (weight, text) = match self.parts.reloader.reload(&self.parts.config) {
            Ok(Reloaded::Taken(config)) => {
                let text = format!("{file} is taken: guards {config}");
                self.parts.config = config.clone();
                self.feed([Event::Configured { config: Box::new(config) }]).await?;
                (Weight::Info, text)
            }
            Ok(Reloaded::Same) => (Weight::Info, format!("{file} says what is so already")),
            Ok(Reloaded::NoFile) => {
                let text = format!("there is nothing to reload: there is no {file}");
                (Weight::Info, text)
            }
            Err(error) => {
                let error = causes(&error);
                warn!("{error}");
                // The rest is in the log, and with who asked.
                let first = error.lines().next().unwrap_or_default();
                self.note(Weight::Warning, format!("the configuration stays as it was: {first}"))?;
                return Ok(Answer::Refused { error });
            }
        };
        self.note(weight, text.clone())?;
        Ok(Answer::Reloaded { reloaded: text })
    }

    fn note(&mut self, weight: Weight, text: String) -> Result<(), DriverError> {
        self.hands().1.tell(Notice { weight, nic: None, text })
    }
}
