//! How much room an entry takes, counted in things of like size.

use super::Entry;
use crate::{Action, Event};

impl Entry {
    pub(super) fn size(&self) -> usize {
        let events: usize = self.events.iter().map(of_event).sum();
        let actions: usize = self.actions.iter().map(of_action).sum();
        events.saturating_add(actions).saturating_add(1)
    }
}

fn of_event(event: &Event) -> usize {
    1 + match event {
        Event::Snapshot { links, addresses, routes, rules } => {
            links.len() + addresses.len() + routes.len() + rules.len()
        }
        Event::Inherited { names, held } => names.len() + held.values().flatten().count(),
        Event::Carried { nics } => nics
            .values()
            .flat_map(|nic| &nic.plans)
            .map(|plan| plan.addresses.len() + plan.routes.len())
            .sum(),
        Event::Heard { frames } => 2 * frames.len(),
        Event::Received { adverts } => adverts.len(),
        Event::LastWords { intents } => intents.len(),
        Event::Moved { addresses } => addresses.len(),
        Event::Daemons { daemons } => daemons
            .iter()
            .map(|daemon| 1 + daemon.commands.len() + daemon.monitors.len() + daemon.vrrp.len())
            .sum(),
        Event::Speakers { speakers } => speakers.len(),
        Event::DaemonsUnknown { gone, .. } => gone.len(),
        Event::TakenOver { from } => from.size(),
        Event::Succeeded { action } | Event::Failed { action, .. } => of_action(action),
        Event::Link { .. }
        | Event::LinkRemoved { .. }
        | Event::Address { .. }
        | Event::AddressRemoved { .. }
        | Event::Intent { .. }
        | Event::Granted { .. }
        | Event::Route { .. }
        | Event::RouteRemoved { .. }
        | Event::Rule { .. }
        | Event::RuleRemoved { .. }
        | Event::Switch { .. }
        | Event::Turnover
        | Event::Withheld { .. }
        | Event::Configured { .. }
        | Event::Tick
        | Event::Stop => 0,
    }
}

fn of_action(action: &Action) -> usize {
    1 + match action {
        Action::Carry { old, new, .. } => {
            old.iter().chain([new]).map(|plan| plan.addresses.len() + plan.routes.len()).sum()
        }
        Action::WatchAddresses { addresses } => addresses.len(),
        Action::Answer { answers, .. } => answers.addresses.len(),
        Action::SetCommandPorts { ports } => ports.len(),
        Action::RestoreRoutes { except, .. } => except.len(),
        Action::SetPolicy { .. }
        | Action::ClearPolicy { .. }
        | Action::Guard { .. }
        | Action::Listen { .. }
        | Action::Unguard { .. }
        | Action::Rebind { .. }
        | Action::SetOpening { .. }
        | Action::Speak { .. }
        | Action::RemoveVip { .. }
        | Action::MoveVip { .. }
        | Action::Announce { .. }
        | Action::Shunt { .. }
        | Action::Watch { .. }
        | Action::SetProbe { .. }
        | Action::StandIn { .. }
        | Action::ResyncLink { .. }
        | Action::ReplayRemoval { .. }
        | Action::ShowAddress { .. }
        | Action::Rescan
        | Action::Tell { .. }
        | Action::Finish { .. } => 0,
    }
}
