//! The vipshield that runs, as one that starts sees it.

use std::{io, path::PathBuf, time::Duration};

use log::{info, warn};
use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType, socket_with};
use tokio::{
    io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader},
    net::UnixStream,
    time::timeout,
};

use super::{Answer, Handover, Holder, LONGEST, PATIENCE, SuccessionError, Word};
use crate::{
    engine::Engine,
    status::{Answer as Refusal, Request},
};

/// It waits for so long until a move is over, and has to be heard then.
const WAIT: Duration = Engine::HANDOVER_GRACE.saturating_add(PATIENCE);

/// See the [module](self).
#[derive(Debug)]
pub struct Predecessor {
    holder: Holder,
    /// Its control socket, if it has the same.
    path: PathBuf,
}

/// One that has answered.
#[derive(Debug)]
pub struct Connected(BufReader<UnixStream>);

/// What it answered.
#[derive(Debug)]
pub enum Answered {
    /// It decides nothing any more.
    HandedOver(Box<Succession>),
    /// This one is to stand by until that one ends.
    StandBy(Connected),
    /// It ended before it could.
    Gone,
}

/// What was handed over, while the predecessor waits to hear that it has been taken.
#[derive(Debug)]
pub struct Succession {
    predecessor: Connected,
    /// What the predecessor knew; none if it is of another layout.
    pub state: Option<Handover>,
    /// Which one the predecessor was.
    pub instance: Option<String>,
}

impl Predecessor {
    /// The one that holds this network namespace.
    #[must_use]
    pub const fn new(holder: Holder, path: PathBuf) -> Self {
        Self { holder, path }
    }

    /// Connects to its control socket, or the name that it has: it may see another file system.
    async fn connect(self) -> Result<UnixStream, SuccessionError> {
        let Self { holder, path } = self;
        let stream = match UnixStream::connect(path).await {
            Ok(stream) if is_of(&stream, &holder) => return Ok(stream),
            _ => connect_by_name(&holder),
        };
        match stream {
            Ok(stream) if is_of(&stream, &holder) => Ok(stream),
            Ok(_) => Err(SuccessionError::Stranger(holder)),
            Err(source) => Err(SuccessionError::Unreachable { holder, source }),
        }
    }

    /// Asks it to hand over, and waits until it has. To be called when all else is done: it does not wait
    /// for who connects and says nothing.
    pub async fn ask(self, instance: Option<String>) -> Result<Answered, SuccessionError> {
        info!("another vipshield runs: it is asked to hand over");
        let mut stream = BufReader::new(self.connect().await?);
        let request = Request::HandOver { instance };
        say(stream.get_mut(), &request).await.map_err(SuccessionError::Silent)?;
        let mut line = String::new();
        let mut bounded = (&mut stream).take(LONGEST);
        let heard = timeout(WAIT, bounded.read_line(&mut line)).await;
        match heard.map_err(io::Error::from).flatten() {
            Err(error) => return Err(SuccessionError::Silent(error)),
            Ok(0) => return Ok(Answered::Gone),
            Ok(_) => {}
        }
        match serde_json::from_str(&line) {
            Ok(Answer::HandedOver { layout, release, instance, state }) => {
                let state = read(layout, &release, &state);
                Ok(Answered::HandedOver(Box::new(Succession {
                    predecessor: Connected(stream),
                    state,
                    instance,
                })))
            }
            Ok(Answer::StandBy) => Ok(Answered::StandBy(Connected(stream))),
            Err(error) => Err(SuccessionError::Refused(match serde_json::from_str(&line) {
                Ok(Refusal::Refused { error }) => error,
                _ => format!("what it answers makes no sense: {error}"),
            })),
        }
    }
}

impl Connected {
    /// Waits until it ends.
    pub async fn ended(&mut self) {
        let mut rest = Vec::new();
        // Whatever comes, it is the end that counts.
        let _ = (&mut self.0).take(LONGEST).read_to_end(&mut rest).await;
    }
}

impl Succession {
    /// Says that this one has come a step further. A predecessor that does not listen is noticed at the end.
    pub async fn at_work(&mut self) {
        let _ = say(self.predecessor.0.get_mut(), &Word::AtWork).await;
    }

    /// Says that this one has everything, and waits until the predecessor is gone. False: it did not wait for
    /// that.
    pub async fn taken(mut self) -> bool {
        if let Err(error) = say(self.predecessor.0.get_mut(), &Word::Taken).await {
            warn!("the vipshield that handed over cannot be told to end: {error}");
            return false;
        }
        match timeout(PATIENCE, self.predecessor.ended()).await {
            Ok(()) => info!("taken over: the other vipshield has ended"),
            Err(_) => warn!("taken over, but the other vipshield has not ended yet: stop it"),
        }
        true
    }
}

/// A state that is not understood is as good as none.
fn read(layout: u32, release: &str, state: &serde_json::Value) -> Option<Handover> {
    if layout != Handover::VERSION {
        info!("vipshield {release} says what it knows in another way: it is learned anew");
        return None;
    }
    // By way of text, from which all else is read: code of its own for this once is a hundred kilobytes.
    let read = serde_json::from_str(&state.to_string());
    read.inspect_err(|error| {
        warn!("what vipshield {release} knows is not understood, and learned anew: {error}");
    })
    .ok()
}

/// Connects to the name that it has. Whoever leaves no room there has it fail, not wait (`unix(7)`).
fn connect_by_name(holder: &Holder) -> io::Result<UnixStream> {
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let socket = socket_with(AddressFamily::UNIX, SocketType::STREAM, flags, None)?;
    rustix::net::connect(&socket, &SocketAddrUnix::new_abstract_name(holder.name())?)?;
    UnixStream::from_std(socket.into())
}

/// Whether it is this process that is connected, as far as that can be told.
fn is_of(stream: &UnixStream, holder: &Holder) -> bool {
    // The kernel says 0 of a process of another PID namespace.
    let peer = stream.peer_cred().ok().and_then(|peer| peer.pid()).filter(|pid| *pid != 0);
    let known = holder.process().and_then(|process| i32::try_from(process).ok());
    peer.zip(known).is_none_or(|(peer, known)| peer == known)
}

async fn say(stream: &mut UnixStream, what: &impl serde::Serialize) -> io::Result<()> {
    let mut line = serde_json::to_vec(what)?;
    line.push(b'\n');
    timeout(PATIENCE, stream.write_all(&line)).await?
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn what_is_not_understood_is_learned_anew() {
        let mut state = json!({
            "nics": {}, "daemons": {}, "names": {
                "looked": true, "suspects": [], "alone": [], "bereft": [], "mute": [],
            },
            "told": {
                "guarded_since": [], "introduced": [], "bridges": [], "names": [],
                "disclosed": [[], []], "muddled": [],
            },
            "vips": {"known": {}, "removals": {}, "unclaimed": [], "looked_at": {"secs": 1, "nanos": 0}},
            "routers": {
                "table": {"entries": [], "evicted": 0}, "patience": {}, "able": {}, "silent": [],
                "silences": 0,
            },
            "made": [], "placed": [], "speaking": [], "takers": {},
            "unserved": {}, "deaf": [], "turnover_until": null, "engaged": true,
        });
        let layout = Handover::VERSION;
        // A change of this test is a change of the layout: it gets another number.
        assert!(read(layout, "0.1.0", &state).is_some());
        assert!(read(layout + 1, "0.2.0", &state).is_none());
        // What is added later, and may be missed, changes nothing.
        state["more"] = json!(1);
        assert!(read(layout, "0.1.1", &state).is_some());
        state["nics"] = json!("none");
        assert!(read(layout, "0.1.0", &state).is_none());
        assert!(read(layout, "0.1.0", &json!(null)).is_none());
    }
}
