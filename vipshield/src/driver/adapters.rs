//! What the engine's actions are carried out with.

use std::{collections::HashMap, net::IpAddr, time::Duration};

use log::{Level, warn};
use thiserror::Error;
use tokio::time::{error::Elapsed, timeout};

use super::{
    ANSWER, DriverError, Parts,
    attach::{guard, listen, set_opening},
    look::Looks,
    monotonic,
    recent::Recent,
    work::{Done, Hands},
};
use crate::{
    bpf::{BpfError, Programs, Pulse, Ticket},
    causes::causes,
    daemons::{self, BorrowError, Scope, SocketError},
    engine::{Action, Address, Engine, Event, Notice, Shunt, Trigger, VrrpSocket, Weight},
    logging,
    net::{
        AnnounceError, CarryError, GroupError, Monitor, MonitorError, NeighbourError, Replay,
        ReplayError, VipError,
    },
};

/// An address is shown within so long, a busy kernel included.
const SHOWN: Duration = Duration::from_millis(500);

/// An action failed.
#[derive(Debug, Error)]
pub(super) enum ActionError {
    #[error(transparent)]
    Bpf(#[from] BpfError),
    #[error(transparent)]
    Borrow(#[from] BorrowError),
    #[error(transparent)]
    Socket(#[from] SocketError),
    #[error(transparent)]
    Replay(#[from] ReplayError),
    #[error(transparent)]
    Carry(#[from] CarryError),
    #[error(transparent)]
    Route(#[from] MonitorError),
    #[error(transparent)]
    Group(#[from] GroupError),
    #[error(transparent)]
    Vip(#[from] VipError),
    #[error(transparent)]
    Announce(#[from] AnnounceError),
    #[error("the kernel has not answered for {} s", ANSWER.as_secs())]
    Unanswered(#[from] Elapsed),
    #[error("the loop was away for too long, so that the guard withholds nothing for the moment")]
    Open,
}

/// What actions are carried out with.
pub(super) struct Adapters<'a> {
    pub(super) parts: &'a mut Parts,
    pub(super) looks: &'a mut Looks,
    pub(super) recent: &'a mut Recent,
    pub(super) pulse: &'a Pulse,
    /// What waits for programs on interfaces.
    pub(super) placings: &'a mut HashMap<Ticket, Action>,
}

impl Hands for Adapters<'_> {
    type Error = DriverError;

    fn now(&self) -> Result<Duration, DriverError> {
        monotonic()
    }

    async fn carry_out(
        &mut self,
        engine: &Engine,
        action: &Action,
    ) -> Result<Result<Done, String>, DriverError> {
        if let Action::Tell { notice } = action {
            self.tell(notice.clone())?;
            return Ok(Ok(Done::Now(None)));
        }
        let done = timeout(ANSWER, self.try_to(action, monotonic()?)).await;
        Ok(match done.map_err(Into::into).flatten() {
            // What is gone has nothing left to be taken back.
            Err(ActionError::Borrow(error)) if engine.is_ending() && error.is_gone() => {
                Ok(Done::Now(None))
            }
            done => done.map_err(|error| causes(&error)),
        })
    }
}

/// Returns what is seen of an address that is there.
async fn replay_removal(
    programs: &mut Programs,
    replay: &Replay,
    ifindex: u32,
    address: Address,
) -> Result<Option<Event>, ActionError> {
    let replayed = match address.ip {
        IpAddr::V4(_) => replay.removal(ifindex, address).await,
        IpAddr::V6(ip) => {
            programs.pass_removal(ip, true)?;
            let replayed = replay.removal(ifindex, address).await;
            programs.pass_removal(ip, false)?;
            replayed
        }
    };
    // It is there, and nobody has said so yet.
    let seen = Event::Address { ifindex, address, requester: 0 };
    Ok((!replayed?).then_some(seen))
}

/// Without it the kernel asks, as ever.
fn best_effort(done: Result<(), NeighbourError>) {
    if let Err(error) = done {
        warn!("{}", causes(&error));
    }
}

/// A shunt is laid. A NIC that has joined since it was last heard of throws what is to be thrown when it joins.
fn laid(monitor: &Monitor, ifindex: u32, shunt: Option<Shunt>) -> Result<(), MonitorError> {
    match shunt {
        Some(Shunt { trigger: Trigger::Join, .. }) => monitor.ask_for_link(ifindex),
        _ => Ok(()),
    }
}

/// What came of an action that waited for programs on interfaces.
pub(super) fn placed(monitor: &Monitor, action: Action, done: Result<(), BpfError>) -> Event {
    let done = done.map_err(ActionError::from).and_then(|()| match &action {
        Action::Shunt { ifindex, shunt } => Ok(laid(monitor, *ifindex, *shunt)?),
        _ => Ok(()),
    });
    match done {
        Ok(()) => Event::Succeeded { action },
        Err(error) => Event::Failed { action, error: causes(&error) },
    }
}

impl Adapters<'_> {
    async fn try_to(&mut self, action: &Action, now: Duration) -> Result<Done, ActionError> {
        let Parts {
            programs,
            monitor,
            replay,
            carrier,
            neighbours,
            groups,
            vips,
            announcer,
            probes,
            scanner,
            ..
        } = &mut *self.parts;
        match action {
            Action::SetPolicy { ifindex, name, withhold, passes } => {
                programs.set_policy(*ifindex, name, *withhold, passes)?;
            }
            Action::ClearPolicy { ifindex, name } => programs.clear_policy(*ifindex, name)?,
            Action::SetCommandPorts { ports } => programs.set_command_ports(ports)?,
            Action::Guard { socket } => guard(programs, scanner, *socket, replay.port)?,
            Action::Listen { socket } => listen(programs, scanner, *socket, replay.port)?,
            Action::SetOpening { nic, opening } => set_opening(programs, *nic, opening.as_ref())?,
            Action::RemoveVip { ifindex, address } => vips.remove(*ifindex, *address).await?,
            Action::MoveVip { address, from, to } => vips.relocate(*address, *from, *to).await?,
            Action::Announce { ifindex, address } => announcer.announce(*ifindex, *address)?,
            Action::Unguard { socket } => {
                let duplicate = daemons::borrow(*socket)?;
                programs.unguard(&duplicate, daemons::cookie(&duplicate)?)?;
                scanner.forget(*socket);
            }
            Action::Rebind { socket, nic, to } => {
                let VrrpSocket { id, family, bound, home, .. } = *socket;
                let duplicate = daemons::borrow(id)?;
                match to {
                    Some(to) if !socket.sends_to_peers() => {
                        let from: Vec<u32> = bound.into_iter().chain(home).collect();
                        daemons::rebind(&duplicate, family, &from, *to, *nic, &scanner.groups())?;
                    }
                    to => daemons::rebind_sender(&duplicate, *to)?,
                }
            }
            Action::Speak { socket, from_anywhere } => {
                daemons::speak_from_anywhere(daemons::borrow(*socket)?, *from_anywhere)?;
            }
            Action::Carry { ifindex, old, new, detours } => {
                // Who is led to by a route is known before the route is there.
                if !new.routes.is_empty() {
                    best_effort(neighbours.carry(*ifindex, now));
                }
                carrier.change(*ifindex, old, new, detours.as_ref()).await?;
            }
            Action::RestoreRoutes { source, except } => {
                monitor.restore_routes(*source, except).await?;
            }
            Action::Shunt { ifindex, shunt } => {
                // First: the kernel lets nobody change anything while a program is put on an interface.
                if let Some(shunt) = shunt {
                    best_effort(neighbours.join(*ifindex, shunt.bearer, now));
                }
                match programs.set_shunt(*ifindex, *shunt)? {
                    Some(ticket) => return Ok(self.waits(ticket, action)),
                    None => laid(monitor, *ifindex, *shunt)?,
                }
            }
            Action::Watch { ifindex, wanted } => {
                if let Some(ticket) = programs.set_watch(*ifindex, *wanted)? {
                    return Ok(self.waits(ticket, action));
                }
            }
            Action::WatchAddresses { addresses } => programs.set_watched(addresses)?,
            Action::Answer { ifindex, answers } => {
                programs.set_answers(*ifindex, answers)?;
                groups.hold(*ifindex, &answers.addresses)?;
            }
            Action::SetProbe { ifindex, family, groups } => {
                probes.set(*ifindex, *family, groups.as_ref())?;
            }
            Action::StandIn { ifindex, wanted } => carrier.stand_in(*ifindex, *wanted).await?,
            Action::ResyncLink { socket, ifindex } => {
                programs.begin_epoch(*ifindex)?;
                daemons::resync_link(daemons::borrow(*socket)?, *ifindex)?;
            }
            Action::ReplayRemoval { ifindex, address } => {
                let seen = replay_removal(programs, replay, *ifindex, *address).await?;
                return Ok(Done::Now(seen));
            }
            Action::ShowAddress { ifindex, address } => {
                // It is put on the NIC and taken off again, and the daemons must not hear of the second.
                if address.is_some() && !self.pulse.withholds(SHOWN) {
                    return Err(ActionError::Open);
                }
                // It is to pass whatever they are taken to know.
                programs.begin_epoch(*ifindex)?;
                replay.show(*ifindex, *address).await?;
            }
            Action::Rescan => self.looks.soon(Scope::Known, &[Duration::ZERO]),
            Action::Tell { .. } | Action::Finish { .. } => {}
        }
        Ok(Done::Now(None))
    }

    /// It is done once what was asked for is.
    fn waits(&mut self, ticket: Ticket, action: &Action) -> Done {
        self.placings.insert(ticket, action.clone());
        Done::UnderWay
    }

    pub(super) fn tell(&mut self, notice: Notice) -> Result<(), DriverError> {
        let level = match notice.weight {
            Weight::Detail => Level::Debug,
            Weight::Info => Level::Info,
            Weight::Warning => Level::Warn,
        };
        logging::tell(level, &notice);
        self.recent.keep(monotonic()?, notice);
        Ok(())
    }
}
