//! What a vipshield knows, for itself when it begins anew.

use std::{
    fs::File,
    io::{self, Read, Seek as _, Write as _},
};

use log::warn;
use rustix::fs::{MemfdFlags, memfd_create};

use super::{Handover, LONGEST};

/// Writes it to memory, to be read from its beginning (`memfd_create(2)`, Linux 3.17).
pub fn keep(state: &Handover) -> io::Result<File> {
    let mut file = File::from(memfd_create(c"vipshield", MemfdFlags::CLOEXEC)?);
    file.write_all(&serde_json::to_vec(state)?)?;
    file.rewind()?;
    Ok(file)
}

/// Reads it. What cannot be read is learned anew.
#[must_use]
pub fn recall(from: impl Read) -> Option<Handover> {
    let mut text = String::new();
    let read = from.take(LONGEST).read_to_string(&mut text).map_err(serde_json::Error::io);
    let read = read.and_then(|_| serde_json::from_str(&text));
    read.inspect_err(|error| warn!("what it knew is not understood, and learned anew: {error}"))
        .ok()
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::engine::{Config, Engine, OnStop, OwnRules};

    #[test]
    fn what_is_kept_is_recalled() -> io::Result<()> {
        let state = Engine::new(Config {
            interfaces: vec!["ens192".to_owned()],
            deadline: Duration::from_secs(1),
            replay_port: 7,
            own_addresses: Vec::new(),
            on_stop: OnStop::Keep,
            rules: OwnRules::default(),
            observe: false,
        })
        .hand_over();
        assert_eq!(recall(keep(&state)?), Some(state));
        assert_eq!(recall(&b"{"[..]), None);
        Ok(())
    }
}
