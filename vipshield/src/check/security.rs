//! What else may refuse: Yama, lockdown, AppArmor, SELinux.

use std::{fs, io};

use super::Finding;

const GROUP: &str = "security";

pub(super) fn findings() -> Vec<Finding> {
    let read = |path: &str| read(path);
    vec![
        yama(&read("/proc/sys/kernel/yama/ptrace_scope")),
        lockdown(&read("/sys/kernel/security/lockdown")),
        apparmor(
            &read("/proc/thread-self/attr/apparmor/current")
                .or_else(|_| read("/proc/thread-self/attr/current")),
            read("/sys/module/apparmor/parameters/enabled").is_ok_and(|it| it == "Y"),
        ),
        selinux(&read("/sys/fs/selinux/enforce"), &read("/proc/thread-self/attr/current")),
    ]
}

type Contents = io::Result<String>;

/// A file of one line, without its end.
fn read(path: &str) -> Contents {
    let text = fs::read_to_string(path)?;
    Ok(text.trim_end_matches(['\n', '\0']).to_owned())
}

/// `yama_ptrace_access_check` in `security/yama/yama_lsm.c`: up to 2 a capability is enough.
fn yama(scope: &Contents) -> Finding {
    let name = "yama";
    match scope.as_deref() {
        Ok("3") => Finding::fail(
            GROUP,
            name,
            "kernel.yama.ptrace_scope is 3: nobody may work on another process",
            "set kernel.yama.ptrace_scope to 2 or less in /etc/sysctl.d and reboot: it cannot be lowered",
        ),
        Ok(scope) => {
            Finding::pass(GROUP, name, format!("ptrace_scope {scope}: SYS_PTRACE is enough"))
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            Finding::pass(GROUP, name, "the kernel does without")
        }
        Err(error) => Finding::skip(GROUP, name, error.to_string()),
    }
}

/// `security/security.c`: kprobes and reading kernel memory are refused for confidentiality only, and
/// vipshield does without.
fn lockdown(text: &Contents) -> Finding {
    let name = "lockdown";
    match text.as_deref() {
        Ok(text) if text.contains("[confidentiality]") => Finding::warn(
            GROUP,
            name,
            "the kernel is locked down for confidentiality: eBPF programs may read nothing of it, nor see ports \
             join and leave; both is seen a little later",
            "boot with lockdown=integrity, or none",
        ),
        Ok(text) => {
            let chosen = text.split(['[', ']']).nth(1).unwrap_or(text);
            Finding::pass(GROUP, name, chosen)
        }
        Err(error) => Finding::skip(
            GROUP,
            name,
            format!(
                "/sys/kernel/security/lockdown: {error} (what a lockdown refuses is named below)"
            ),
        ),
    }
}

/// The profiles of containers let their processes trace each other only.
fn apparmor(current: &Contents, enabled: bool) -> Finding {
    let name = "apparmor";
    match current.as_deref() {
        _ if !enabled => Finding::pass(GROUP, name, "not in use"),
        Ok("unconfined") => Finding::pass(GROUP, name, "unconfined"),
        Ok(profile) if profile.ends_with("(complain)") => {
            Finding::pass(GROUP, name, format!("{profile}: refuses nothing"))
        }
        Ok(profile) => Finding::warn(
            GROUP,
            name,
            format!(
                "{profile}: the profiles of container runtimes refuse to look into processes outside of them, \
                 so that no daemon is seen"
            ),
            "set securityContext.appArmorProfile.type: Unconfined",
        ),
        Err(error) => Finding::skip(GROUP, name, error.to_string()),
    }
}

/// Types that containers get, and that may not look into the node's processes.
const CONFINED: [&str; 2] = ["container_t", "svirt_lxc_net_t"];

fn selinux(enforce: &Contents, current: &Contents) -> Finding {
    let name = "selinux";
    match (enforce.as_deref(), current.as_deref()) {
        (Err(error), _) if error.kind() == io::ErrorKind::NotFound => {
            Finding::pass(GROUP, name, "not in use, or not to be seen from this container")
        }
        (Err(error), _) | (Ok(_), Err(error)) => Finding::skip(GROUP, name, error.to_string()),
        (Ok("1"), Ok(context)) => {
            let kind = context.split(':').nth(2).unwrap_or(context);
            if CONFINED.contains(&kind) {
                Finding::warn(
                    GROUP,
                    name,
                    format!(
                        "{kind}: may neither load eBPF programs nor look into the node's processes"
                    ),
                    "set securityContext.seLinuxOptions.type: spc_t",
                )
            } else {
                Finding::pass(GROUP, name, format!("enforcing, type {kind}"))
            }
        }
        (Ok(_), Ok(_)) => Finding::pass(GROUP, name, "permissive"),
    }
}

#[cfg(test)]
mod tests {
    use super::{super::Verdict, *};

    #[expect(clippy::unnecessary_wraps, reason = "what reading gives")]
    fn is(text: &str) -> Contents {
        Ok(text.to_owned())
    }

    fn absent() -> Contents {
        Err(io::ErrorKind::NotFound.into())
    }

    fn denied() -> Contents {
        Err(io::ErrorKind::PermissionDenied.into())
    }

    #[test]
    fn yama_refuses_from_three() {
        for (scope, verdict) in
            [("0", Verdict::Pass), ("1", Verdict::Pass), ("2", Verdict::Pass), ("3", Verdict::Fail)]
        {
            assert_eq!(yama(&is(scope)).verdict, verdict, "{scope}");
        }
        assert_eq!(yama(&absent()).verdict, Verdict::Pass);
        assert_eq!(yama(&denied()).verdict, Verdict::Skip);
    }

    #[test]
    fn only_confidentiality_is_in_the_way() {
        let none = lockdown(&is("[none] integrity confidentiality"));
        assert_eq!((none.verdict, none.text.as_str()), (Verdict::Pass, "none"));
        let integrity = lockdown(&is("none [integrity] confidentiality"));
        assert_eq!(integrity.verdict, Verdict::Pass);
        let confidential = lockdown(&is("none integrity [confidentiality]"));
        assert_eq!(confidential.verdict, Verdict::Warn);
        assert_eq!(lockdown(&denied()).verdict, Verdict::Skip);
        lockdown(&is(""));
    }

    #[test]
    fn a_containers_profile_is_warned_of() {
        for (profile, verdict) in [
            ("unconfined", Verdict::Pass),
            ("cri-containerd.apparmor.d (enforce)", Verdict::Warn),
            ("mine (complain)", Verdict::Pass),
        ] {
            assert_eq!(apparmor(&is(profile), true).verdict, verdict, "{profile}");
        }
        assert_eq!(apparmor(&denied(), false).verdict, Verdict::Pass);
        assert_eq!(apparmor(&denied(), true).verdict, Verdict::Skip);
    }

    #[test]
    fn a_containers_type_is_warned_of_where_it_is_enforced() {
        let context = is("system_u:system_r:container_t:s0:c1,c2");
        assert_eq!(selinux(&is("1"), &context).verdict, Verdict::Warn);
        assert_eq!(selinux(&is("0"), &context).verdict, Verdict::Pass);
        let free = is("system_u:system_r:spc_t:s0");
        assert_eq!(selinux(&is("1"), &free).verdict, Verdict::Pass);
        assert_eq!(selinux(&absent(), &context).verdict, Verdict::Pass);
        assert_eq!(selinux(&denied(), &context).verdict, Verdict::Skip);
        selinux(&is("1"), &is("odd"));
    }
}
