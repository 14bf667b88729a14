//! A vipshield that starts, as the one that runs sees it.

use std::io;

use log::{info, warn};
use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};
use tokio::{
    io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader},
    net::UnixStream,
    time::timeout,
};

use super::{Answer, Handover, PATIENCE, Word};
use crate::status::Answer as Refusal;

/// What it says is short.
const SHORT: u64 = 4096;

/// See the [module](self).
#[derive(Debug)]
pub struct Successor {
    stream: BufReader<UnixStream>,
    /// Its process id, unless it is in another PID namespace.
    process: Option<i32>,
    instance: Option<String>,
}

impl Successor {
    /// Somebody has asked on this connection to take over.
    #[must_use]
    pub fn new(stream: UnixStream, instance: Option<String>) -> Self {
        let process = stream.peer_cred().ok().and_then(|peer| peer.pid()).filter(|pid| *pid != 0);
        Self { stream: BufReader::new(stream), process, instance }
    }

    /// Who it is, to an operator.
    #[must_use]
    pub fn name(&self) -> String {
        self.process.map_or_else(
            || "a process that cannot be seen from here".to_owned(),
            |process| format!("process {process}"),
        )
    }

    /// Which one it is, of several that start again by themselves.
    #[must_use]
    pub fn instance(&self) -> Option<&str> {
        self.instance.as_deref()
    }

    /// Ends it: what hangs in the middle of taking over could go on at any time, beside another. One that cannot
    /// be seen from here notices by the connection.
    pub fn end(self) -> io::Result<()> {
        let Some(process) = self.process.and_then(Pid::from_raw) else { return Ok(()) };
        let process = pidfd_open(process, PidfdFlags::empty())?;
        // Connected still, so the number is not another process's by now.
        self.stream.get_ref().try_write(b"\n")?;
        Ok(pidfd_send_signal(process, Signal::KILL)?)
    }

    /// It is not to take over.
    pub async fn refuse(mut self, why: &str) {
        info!("{} does not take over: {why}", self.name());
        let _ = self.say(&Refusal::Refused { error: why.to_owned() }).await;
    }

    /// It is to wait until this one ends, which it notices by the connection.
    pub async fn stand_by(&mut self) -> io::Result<()> {
        self.say(&Answer::StandBy).await
    }

    /// Tells it everything: from now on nothing may be decided here.
    pub async fn bequeath(&mut self, state: &Handover, instance: Option<String>) -> io::Result<()> {
        let release = env!("CARGO_PKG_VERSION").to_owned();
        // By way of text, as all else is written.
        let state = serde_json::from_str(&serde_json::to_string(state)?)?;
        let layout = Handover::VERSION;
        self.say(&Answer::HandedOver { layout, release, instance, state }).await
    }

    /// What it says next; none if it says nothing any more, or what makes no sense. Cancel safe: a line in part is
    /// kept for the next call.
    pub async fn word(&mut self, line: &mut Vec<u8>) -> Option<Word> {
        let left = SHORT.saturating_sub(line.len() as u64);
        let heard = (&mut self.stream).take(left).read_until(b'\n', line).await;
        if let Err(error) = heard {
            warn!("{} was to take over: {error}", self.name());
        }
        let word = serde_json::from_slice(line).ok();
        line.clear();
        word
    }

    async fn say(&mut self, what: &impl serde::Serialize) -> io::Result<()> {
        let mut line = serde_json::to_vec(what)?;
        line.push(b'\n');
        timeout(PATIENCE, self.stream.get_mut().write_all(&line)).await?
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn words_are_heard_one_by_one_and_in_pieces() {
        let (ours, mut theirs) = UnixStream::pair().unwrap();
        let mut successor = Successor::new(ours, None);
        let mut line = Vec::new();
        theirs.write_all(b"{\"request\":\"at_work\"}\n{\"request\":").await.unwrap();
        assert_eq!(successor.word(&mut line).await, Some(Word::AtWork));
        let waits = timeout(std::time::Duration::from_millis(20), successor.word(&mut line));
        waits.await.unwrap_err();
        theirs.write_all(b"\"taken\"}\n").await.unwrap();
        assert_eq!(successor.word(&mut line).await, Some(Word::Taken));
        theirs.write_all(b"nonsense\n").await.unwrap();
        assert_eq!(successor.word(&mut line).await, None);
        drop(theirs);
        assert_eq!(successor.word(&mut line).await, None, "it is gone");
    }

    #[tokio::test]
    async fn a_word_without_an_end_is_none() {
        let (ours, mut theirs) = UnixStream::pair().unwrap();
        theirs.write_all(&vec![b' '; 2 * SHORT as usize]).await.unwrap();
        assert_eq!(Successor::new(ours, None).word(&mut Vec::new()).await, None);
    }
}
