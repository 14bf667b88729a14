//! Another vipshield takes over, or this one from another: see [`succession`](crate::succession).

use std::{mem, time::Duration};

use log::{info, warn};
use tokio::time::{interval, sleep_until};

use super::{BEAT, Driver, DriverError, Outcome, Signals, clock, monotonic};
use crate::{
    engine::Engine,
    signals,
    status::{Answer, Asked, Request},
    succession::{Successor, Word},
};

/// A successor has so long for each step of taking over what it was told. From then on its guard may withhold
/// nothing any more: what was withheld until then has to be told by somebody who is alive.
const TAKES: Duration = Duration::from_secs(3);
/// It has so long for all of them: a node with thousands of links, or a machine that is busy.
const TAKES_IN_ALL: Duration = Duration::from_secs(12);
/// Those that stand by; each costs a descriptor.
const STAND_BY: usize = 4;

/// Who is to take over, and who waits.
#[derive(Default)]
pub(super) struct Heirs {
    /// With when its time has come, whatever is under way.
    next: Option<(Successor, Duration)>,
    standing_by: Vec<Successor>,
}

impl Heirs {
    /// Has one wait until this vipshield is gone.
    async fn wait(&mut self, mut successor: Successor, why: &str) {
        info!("{} stands by until this one ends: {why}", successor.name());
        if successor.stand_by().await.is_ok() {
            self.standing_by.push(successor);
            // Without a place, it asks again.
            let excess = self.standing_by.len().saturating_sub(STAND_BY);
            self.standing_by.drain(..excess);
        }
    }
}

impl Driver {
    /// Somebody asks to take over.
    pub(super) async fn asked_to_hand_over(
        &mut self,
        successor: Successor,
    ) -> Result<(), DriverError> {
        let predecessor = self.predecessor.as_deref();
        if self.work.engine.is_stopping() {
            self.heirs.wait(successor, "this one is ending").await;
        } else if self.heirs.next.is_some() {
            successor.refuse("another one takes over already").await;
        } else if predecessor.is_some() && successor.instance() == predecessor {
            self.heirs
                .wait(successor, "it has handed over to this one, and was started again")
                .await;
        } else {
            info!("{} asks to take over", successor.name());
            let until = monotonic()?.saturating_add(Engine::HANDOVER_GRACE);
            self.heirs.next = Some((successor, until));
        }
        Ok(())
    }

    /// Hands over if somebody waits for that and nothing is under way, or he has waited for too long. None:
    /// not now.
    pub(super) async fn hand_over(
        &mut self,
        signals: &mut Signals,
    ) -> Result<Option<Outcome>, DriverError> {
        let now = monotonic()?;
        let Some((mut successor, until)) = self.heirs.next.take() else { return Ok(None) };
        let is_calm = self.work.engine.may_hand_over(now) && !self.work.is_behind();
        if self.work.engine.is_stopping() {
            self.heirs.wait(successor, "this one is ending").await;
            return Ok(None);
        }
        if !is_calm && now < until {
            self.heirs.next = Some((successor, until));
            return Ok(None);
        }
        let state = self.work.engine.hand_over();
        if let Err(error) = successor.bequeath(&state, self.parts.instance.clone()).await {
            warn!("{} was to take over, and does not listen: {error}", successor.name());
            return Ok(None);
        }
        info!("{} takes over: nothing is decided here any more", successor.name());
        let (taken, told_to_end) = self.is_taken(&mut successor, signals).await?;
        if taken {
            info!("{} has taken over: ended", successor.name());
            self.parts.server.leave();
            return Ok(Some(Outcome::HandedOver));
        }
        let name = successor.name();
        warn!("{name} has not taken over what it was told: it is killed, and this one begins anew");
        if let Err(error) = successor.end() {
            info!("{name} cannot be killed, or is gone already: {error}");
        }
        if told_to_end {
            signals::keep_for_later().map_err(DriverError::Signal)?;
        }
        Ok(Some(Outcome::Anew(Some(Box::new(state)))))
    }

    /// Keeps what is in force until the successor has everything. It may have changed anything by then. Returns
    /// whether it has, and whether this one was told to end meanwhile.
    async fn is_taken(
        &mut self,
        successor: &mut Successor,
        signals: &mut Signals,
    ) -> Result<(bool, bool), DriverError> {
        let mut beat = interval(BEAT);
        let mut line = Vec::new();
        let mut told_to_end = false;
        let end = clock() + TAKES_IN_ALL;
        let mut too_late = clock() + TAKES;
        loop {
            tokio::select! {
                biased;
                word = successor.word(&mut line) => match word {
                    Some(Word::AtWork) => too_late = end.min(clock() + TAKES),
                    word => return Ok((word == Some(Word::Taken), told_to_end)),
                },
                () = sleep_until(too_late) => return Ok((false, told_to_end)),
                _ = signals.told_to_end() => told_to_end = true,
                // The heartbeat is not kept: a successor that hangs tells nobody what is true, so this guard
                // may withhold for as long as it could for a loop that hangs, and no longer.
                _ = beat.tick() => self.renew().await,
                Some(asked) = self.parts.server.next() => self.answer_meanwhile(asked).await?,
            }
        }
    }

    async fn answer_meanwhile(&mut self, asked: Asked) -> Result<(), DriverError> {
        match asked {
            Asked::Question(request, back) => {
                let _ = back.send(self.answer(&request)?);
            }
            Asked::HandOver(other) => other.refuse("another one takes over already").await,
        }
        Ok(())
    }

    /// What a client asked.
    pub(super) fn answer(&self, request: &Request) -> Result<Answer, DriverError> {
        Ok(match request {
            Request::Status => Answer::Status(Box::new(self.status()?)),
            Request::Events => Answer::Events(self.events()?),
            Request::Record => self.recording(),
            // Not while another one takes over; and the control socket's server has a hand-over go another way.
            Request::Reload | Request::HandOver { .. } => {
                Answer::Refused { error: "not now".to_owned() }
            }
        })
    }

    /// All that is attached stays, until the process is gone.
    pub(super) fn abandon(self) {
        let Self { parts, pulse, .. } = self;
        drop(parts.server);
        mem::forget(parts.programs);
        mem::forget(pulse);
    }
}
