//! Which multicast groups sockets have joined, and where.
//!
//! The kernel does not tell what a socket has joined, but it answers whether it has joined a group on an
//! interface, and it tells which groups anybody has joined anywhere. VRRP's may be other groups than its own:
//! keepalived's `vrrp_mcast_group4`, `vrrp_mcast_group6` and `mcast_dst_ip`.

use std::{
    collections::BTreeSet,
    fs, io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    os::fd::AsFd,
};

use super::sockopt::{self, GroupFilter};
use crate::engine::Family;

/// VRRP's own groups (RFC 9568, section 5.1.1.2 and 5.1.2.2).
const USUAL: [IpAddr; 2] = [
    IpAddr::V4(Ipv4Addr::new(224, 0, 0, 18)),
    IpAddr::V6(Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 0x12)),
];

/// `linux/in.h` and `linux/in6.h` have one number for both families.
const MCAST_MSFILTER: i32 = 48;

/// An interface, and a group.
pub type Membership = (u32, IpAddr);

/// VRRP's own groups.
#[must_use]
pub fn usual_groups() -> BTreeSet<IpAddr> {
    USUAL.into()
}

/// What anybody in this thread's network namespace has joined, but for what every host joins by itself.
pub fn all() -> io::Result<BTreeSet<Membership>> {
    let read = |table: &str| match fs::read_to_string(format!("/proc/thread-self/net/{table}")) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(String::new()),
        read => read,
    };
    Ok(ipv4(&read("igmp")?).chain(ipv6(&read("igmp6")?)).collect())
}

/// Which of these a socket has joined.
#[must_use]
pub fn of(socket: impl AsFd, family: Family, all: &BTreeSet<Membership>) -> Vec<Membership> {
    let socket = socket.as_fd();
    let candidates = all.iter().filter(|(_, group)| Family::of(*group) == family);
    candidates.filter(|(ifindex, group)| is_member(socket, *ifindex, *group)).copied().collect()
}

/// Whether a socket is a member of a group on an interface. The kernel answers a question about the
/// sources that it wants to hear there only to a member (`ip_mc_gsfget` in `net/ipv4/igmp.c`,
/// `ip6_mc_msfget` in `net/ipv6/mcast.c`; Linux 2.6).
#[must_use]
pub fn is_member(socket: impl AsFd, ifindex: u32, group: IpAddr) -> bool {
    let (level, domain, at, address) = match group {
        IpAddr::V4(ip) => (libc::IPPROTO_IP, libc::AF_INET, 4, ip.octets().to_vec()),
        IpAddr::V6(ip) => (libc::IPPROTO_IPV6, libc::AF_INET6, 8, ip.octets().to_vec()),
    };
    // `struct sockaddr_in` and `sockaddr_in6`: the family, a port, and for IPv6 a flow label,
    // before the address.
    let mut bytes = [0_u8; 128];
    let before = (domain as u16).to_ne_bytes();
    bytes.iter_mut().zip(before).for_each(|(to, from)| *to = from);
    bytes.iter_mut().skip(at).zip(address).for_each(|(to, from)| *to = from);
    let mut question = GroupFilter { ifindex, ..GroupFilter::default() };
    let (eights, _) = bytes.as_chunks();
    question.group.iter_mut().zip(eights).for_each(|(to, from)| *to = u64::from_ne_bytes(*from));
    sockopt::ask(socket, level, MCAST_MSFILTER, question).is_ok()
}

/// A line for each interface, and one for each of its groups behind it (`igmp_mc_seq_show` in
/// `net/ipv4/igmp.c`): the address as the machine has the number.
fn ipv4(table: &str) -> impl Iterator<Item = Membership> {
    let mut interface = None;
    table.lines().filter_map(move |line| {
        let first = line.split_whitespace().next()?;
        if !line.starts_with(char::is_whitespace) {
            interface = first.parse().ok();
            return None;
        }
        let group = Ipv4Addr::from(u32::from_str_radix(first, 16).ok()?.to_ne_bytes());
        (group != Ipv4Addr::new(224, 0, 0, 1)).then_some((interface?, IpAddr::V4(group)))
    })
}

/// A line for each group: interface index, name, address (`igmp6_mc_seq_show` in `net/ipv6/mcast.c`).
fn ipv6(table: &str) -> impl Iterator<Item = Membership> {
    table.lines().filter_map(|line| {
        let mut fields = line.split_whitespace();
        let interface = fields.next()?.parse().ok()?;
        let group = Ipv6Addr::from(u128::from_str_radix(fields.nth(1)?, 16).ok()?);
        (!is_every_hosts(group)).then_some((interface, IpAddr::V6(group)))
    })
}

/// All nodes' groups and those of neighbour discovery (RFC 4291, section 2.7.1).
const fn is_every_hosts(group: Ipv6Addr) -> bool {
    matches!(
        group.segments(),
        [0xff01 | 0xff02, 0, 0, 0, 0, 0, 0, 1] | [0xff02, 0, 0, 0, 0, 1, 0xff00..=0xffff, _]
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_tables_tell_who_has_joined_what() {
        let igmp = "Idx\tDevice    : Count Querier\tGroup    Users Timer\tReporter\n\
                    1\tlo        :     1      V3\n\
                    \t\t\t\t010000E0     1 0:00000000\t\t0\n\
                    7\tens192    :     2      V3\n\
                    \t\t\t\t120000E0     1 0:00000000\t\t0\n\
                    \t\t\t\t010000E0     1 0:00000000\t\t0\n";
        let found: Vec<Membership> = ipv4(igmp).collect();
        if cfg!(target_endian = "little") {
            assert_eq!(found, [(7, USUAL[0])]);
        }
        let igmp6 = "7    ens192          ff0200000000000000000001ff000011     1 00000004 0\n\
                     7    ens192          ff020000000000000000000000000012     1 00000004 0\n\
                     7    ens192          ff020000000000000000000000000001     1 0000000C 0\n\
                     cut";
        assert_eq!(ipv6(igmp6).collect::<Vec<_>>(), [(7, USUAL[1])]);
    }

    #[test]
    fn this_machines_tables_are_read() {
        let found = all().unwrap();
        assert!(found.iter().all(|(ifindex, group)| *ifindex > 0 && group.is_multicast()));
    }
}
