//! How `vipshield run` comes in: first, beside one that runs, or to wait for its turn.

use std::{
    env, io,
    os::unix::process::CommandExt as _,
    process::{self, Stdio},
};

use anyhow::{Context as _, Error, Result, ensure};
use log::{info, warn};
use vipshield::{
    claim::{Claim, ClaimError, claim},
    cli::Run,
    engine::Handover,
    signals::Signals,
    status::{Answer, Asked, Server},
    succession::{self, Connected, Predecessor},
};

/// This program, whatever has become of its file (`proc(5)`).
const SELF: &str = "/proc/self/exe";
/// Set for a vipshield that begins anew, and finds on its standard input what it knew.
const KNOWS: &str = "VIPSHIELD_KNOWS";
/// What who asks a vipshield that waits is answered.
const WAITS: &str = "it stands by until the vipshield that runs ends";

/// Claims the network namespace; with one that guards it, that one.
pub(crate) fn enter(options: &Run) -> Result<(Claim, Option<Predecessor>)> {
    match claim(None) {
        Err(ClaimError::Held(holder)) => {
            ensure!(
                !options.observe,
                "a vipshield already guards this network namespace ({holder}): its recording has what this one would \
                 see (vipshield record FILE); stop it first to see what happens without it"
            );
            let only = claim(Some(&holder))?;
            Ok((only, Some(Predecessor::new(holder, options.socket.clone()))))
        }
        claimed => Ok((claimed?, None)),
    }
}

/// Waits until the one that runs ends. False: it was told to end itself.
pub(crate) async fn stand_by(mut other: Connected, mut server: Server) -> Result<bool> {
    info!("stands by until the vipshield that runs ends");
    let mut signals = Signals::hear().context("waiting for signals")?;
    let ended = other.ended();
    tokio::pin!(ended);
    loop {
        tokio::select! {
            () = &mut ended => return Ok(true),
            _ = signals.told_to_end() => return Ok(false),
            Some(asked) = server.next() => match asked {
                Asked::Question(_, back) => {
                    let _ = back.send(Answer::Refused { error: WAITS.to_owned() });
                }
                Asked::HandOver(successor) => successor.refuse(WAITS).await,
            },
        }
    }
}

/// This process is another vipshield from now on, as if it had just been started, but for what it knows.
pub(crate) fn begin_anew(known: Option<&Handover>) -> Error {
    let mut arguments = env::args_os();
    let name = arguments.next().unwrap_or_default();
    let mut again = process::Command::new(SELF);
    again.arg0(name).args(arguments).env_remove(KNOWS);
    match known.map(succession::keep).transpose() {
        Ok(Some(file)) => _ = again.stdin(Stdio::from(file)).env(KNOWS, "stdin"),
        Ok(None) => {}
        Err(error) => warn!("what is known is learned anew: {error}"),
    }
    // Returns only if that fails.
    Error::new(again.exec()).context(format!("beginning anew ({SELF})"))
}

/// What it knew, if it has begun anew.
pub(crate) fn recalled() -> Option<Handover> {
    env::var_os(KNOWS)?;
    succession::recall(io::stdin())
}
