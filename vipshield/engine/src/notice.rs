//! What the operator is told: the story of a transition in a few lines.

use std::fmt;

use serde::{Deserialize, Serialize};

/// How much a notice matters.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Weight {
    /// A detail of a transition.
    Detail,
    /// A step of the story.
    Info,
    /// Something an operator should look at.
    Warning,
}

/// One line for the operator: what was seen, what was decided, why.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Notice {
    /// How much it matters.
    pub weight: Weight,
    /// The guarded NIC it is about, by the name the daemons know.
    pub nic: Option<String>,
    /// The line.
    pub text: String,
}

impl fmt::Display for Notice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.nic {
            Some(nic) => write!(f, "{nic}: {}", self.text),
            None => f.write_str(&self.text),
        }
    }
}
