//! The lanes, made of what was gathered.

use std::{cmp::Reverse, collections::BTreeSet, net::IpAddr, time::Duration};

use super::{
    Content, Extent, Kind, Lane, Mark, Picture,
    band::Band,
    gather::{Gather, OfNic, Said},
    messages::Reports,
};
use crate::{Family, phase::Phase, record::Header};

/// So many NICs, daemons, VIPs and virtual routers are shown.
const MOST: usize = 6;

/// So many phases are in a title.
const PHASES: usize = 6;

impl Gather {
    /// The picture.
    pub(super) fn picture(mut self, header: &Header) -> Picture {
        let end = self.shown.to;
        let mut left_out = Vec::new();
        let mut nics: Vec<(u32, OfNic)> = std::mem::take(&mut self.nics).into_iter().collect();
        // Those that moved are what it is about.
        nics.retain(|(_, nic)| nic.phase.changes() > 1);
        limit(&mut nics, "NICs", &mut left_out);
        let mut title = self.title(&nics);
        if header.config.observe {
            title.push_str(", without vipshield");
        }
        let began = header.clocks.time_of_day(self.transition.from);
        let about = format!("began {began} UTC, recorded by vipshield {}", header.version);
        let said = std::mem::take(&mut self.said);
        let mut lanes = said_lanes(&nics, &said);
        self.daemon_lanes(&nics, &said, header.config.observe, &mut lanes, &mut left_out);
        for (_, nic) in nics {
            // Where nothing is withheld daemons know what is so.
            let untrue = if header.config.observe { Band::default() } else { nic.untrue };
            let rows = [
                ("phase", nic.phase),
                ("untrue to daemons", untrue),
                ("its traffic: bearer", nic.bearer),
                ("carried by vipshield", nic.carried),
            ];
            let band = |(name, band): (&str, Band)| lane(&nic.name, name, band, end);
            lanes.extend(rows.into_iter().filter(|(_, band)| band.changes() > 0).map(band));
        }
        let mut vips: Vec<(IpAddr, Band)> = std::mem::take(&mut self.vips).into_iter().collect();
        vips.sort_by_key(|(_, band)| Reverse(band.changes()));
        limit(&mut vips, "VIPs", &mut left_out);
        lanes.extend(
            vips.into_iter().map(|(ip, band)| lane("where VIPs are", &ip.to_string(), band, end)),
        );
        let mut routers: Vec<((u8, Family), Vec<Mark>)> = self.adverts.into_iter().collect();
        limit(&mut routers, "virtual routers", &mut left_out);
        lanes.extend(routers.into_iter().map(|((router, family), marks)| {
            marks_lane("VRRP adverts", format!("VRID {router}, {family}"), marks)
        }));
        lanes.extend(
            self.did
                .into_iter()
                .map(|(row, marks)| marks_lane("vipshield did", row.name().to_owned(), marks)),
        );
        Picture { title, about, shown: self.shown, transition: self.transition, lanes, left_out }
    }

    fn title(&self, nics: &[(u32, OfNic)]) -> String {
        let story = |(_, nic): &(u32, OfNic)| {
            let mut phases: Vec<String> =
                nic.phases.iter().take(PHASES).map(Phase::to_string).collect();
            if nic.phases.len() > PHASES {
                phases.push("\u{2026}".to_owned());
            }
            format!("{}: {}", nic.name, phases.join(" \u{2192} "))
        };
        let stories: Vec<String> = nics.iter().map(story).collect();
        format!("{} in {} ms", stories.join("; "), self.transition.length().as_millis())
    }

    /// What each daemon was told and not. The guard's reports name no daemon: what is withheld is from all that
    /// are guarded. Routes are left out, of which nothing is withheld.
    fn daemon_lanes(
        &self,
        nics: &[(u32, OfNic)],
        said: &[Said],
        observed: bool,
        lanes: &mut Vec<Lane>,
        left_out: &mut Vec<String>,
    ) {
        let mut reports = Reports::default();
        for (message, mark) in &self.withheld {
            reports.add(mark.at, message);
        }
        let concerned = concerned(nics);
        let passed: Vec<Mark> = said
            .iter()
            .filter(|said| !said.is_route && concerned.contains(&said.ifindex))
            .filter(|said| !reports.has(said.mark.at, &said.event))
            .map(|said| {
                let is_nic = nics.iter().any(|(nic, _)| *nic == said.ifindex);
                let short = match said.mark.short.as_str() {
                    "" => String::new(),
                    short if is_nic => short.to_owned(),
                    short => format!("{}: {short}", who(nics, said.ifindex)),
                };
                Mark { kind: Kind::Told, short, ..said.mark.clone() }
            })
            .collect();
        let mut daemons: Vec<(&u32, &(String, Extent))> = self.daemons.iter().collect();
        limit(&mut daemons, "daemons", left_out);
        for (pid, (name, time)) in daemons {
            // The last look at it may be long ago.
            let is_its = |mark: &&Mark| mark.at >= time.from;
            let by_vipshield = self
                .told
                .iter()
                .filter(|(to, _)| to.is_none_or(|to| to == *pid))
                .map(|(_, mark)| mark);
            let mut told: Vec<Mark> =
                passed.iter().chain(by_vipshield).filter(is_its).cloned().collect();
            told.sort_by_key(|mark| mark.at);
            let withheld: Vec<Mark> =
                self.withheld.iter().map(|(_, mark)| mark).filter(is_its).cloned().collect();
            let group = format!("{name} (process {pid})");
            lanes.push(marks_lane(&group, "was told".to_owned(), told));
            if !observed {
                lanes.push(marks_lane(&group, "withheld from it".to_owned(), withheld));
            }
        }
    }
}

/// What the kernel said of each NIC, and of what carried its traffic.
fn said_lanes(nics: &[(u32, OfNic)], said: &[Said]) -> Vec<Lane> {
    let mut lanes = Vec::new();
    for (ifindex, nic) in nics {
        let others = nic.bearers.iter().filter(|bearer| *bearer != ifindex);
        for of in std::iter::once(ifindex).chain(others) {
            let who = who(nics, *of);
            for (is_route, what) in [(false, "link, addresses"), (true, "routes")] {
                let its = said.iter().filter(|it| it.ifindex == *of && it.is_route == is_route);
                let marks: Vec<Mark> = its.map(|said| said.mark.clone()).collect();
                if !marks.is_empty() {
                    let group = format!("the kernel said of {}", nic.name);
                    lanes.push(marks_lane(&group, format!("{who}: {what}"), marks));
                }
            }
        }
    }
    lanes
}

fn who(nics: &[(u32, OfNic)], ifindex: u32) -> String {
    if nics.iter().any(|(nic, _)| *nic == ifindex) {
        "NIC".to_owned()
    } else if nics.iter().any(|(_, nic)| nic.bridges.contains(&ifindex)) {
        format!("bridge {ifindex}")
    } else {
        format!("interface {ifindex}")
    }
}

/// The NICs and whatever carried their traffic.
fn concerned(nics: &[(u32, OfNic)]) -> BTreeSet<u32> {
    nics.iter().flat_map(|(nic, of)| of.bearers.iter().chain([nic])).copied().collect()
}

fn marks_lane(group: &str, name: String, marks: Vec<Mark>) -> Lane {
    Lane { group: group.to_owned(), name, content: Content::Marks(marks) }
}

fn lane(group: &str, name: &str, band: Band, end: Duration) -> Lane {
    let content = Content::Band(band.finish(end));
    Lane { group: group.to_owned(), name: name.to_owned(), content }
}

fn limit<T>(all: &mut Vec<T>, what: &str, left_out: &mut Vec<String>) {
    if all.len() > MOST {
        left_out.push(format!("{MOST} of {} {what} are shown", all.len()));
        all.truncate(MOST);
    }
}
