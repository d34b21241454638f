//! Checks of what the host lets a process have: locked memory, open files, shared memory.

use super::host::Host;
use super::{Finding, Outcome};

/// NCCL and we register some hundred megabytes in each process, and all of the application's buffers
/// where it asks for that.
const LOCKED_BYTES_LEAST: u64 = 1 << 30;
/// A link over TCP has up to 8 sockets; so many files are for about 500 links.
const OPEN_FILES_LEAST: u64 = 4096;
/// Enough for about 8000 links.
const OPEN_FILES: u64 = 65_536;
/// The size of `/dev/shm` in a container that nobody has given one.
const SHARED_BYTES_CONTAINER: u64 = 64 << 20;
/// linux/capability.h: `CAP_IPC_LOCK`.
const CAP_IPC_LOCK: u32 = 14;

const OF_SHELL: &str =
    "this is the limit of the shell that ran the check: run it where the job will run";

/// A process may lock the memory that it registers.
pub(super) fn locked_memory(host: &Host) -> Outcome {
    if host.ports.is_empty() {
        return Outcome::not_checked("there is no RDMA device that would lock memory");
    }
    let Some((soft, hard)) = limit(host, "Max locked memory") else {
        return Outcome::not_checked("/proc/self/limits does not say");
    };
    let is_apart = is_user_namespace(host);
    let is_capable = is_capable(host, CAP_IPC_LOCK);
    if is_capable && !is_apart {
        return Outcome::Well("any amount: this user has CAP_IPC_LOCK".into());
    }
    let Some(soft) = soft else {
        return Outcome::Well("unlimited".into());
    };
    let what = format!("A process may lock {} of memory.", size(soft));
    let finding = if soft < LOCKED_BYTES_LEAST {
        Finding::problem(what)
    } else {
        Finding::warning(what)
    };
    let hard = hard.map_or("unlimited".to_owned(), size);
    let mut fix = Vec::new();
    if hard == "unlimited" {
        fix.push("ulimit -l unlimited");
    }
    fix.extend([
        "for users: \"* - memlock unlimited\" in /etc/security/limits.d/rdma.conf",
        "for services: LimitMEMLOCK=infinity; Slurm: PropagateResourceLimitsExcept=MEMLOCK",
        "for containers: --ulimit memlock=-1",
    ]);
    Outcome::Found(vec![
        finding
            .evidence([
                format!("soft limit {}, hard limit {hard}", size(soft)),
                OF_SHELL.into(),
            ])
            .evidence((is_capable && is_apart).then_some(
                "CAP_IPC_LOCK is there, but of a user namespace: adapters do not heed that",
            ))
            .why(
                "Memory is locked when it is registered with an adapter: beyond the limit that \
                 fails, and the job ends.",
            )
            .fix(fix),
    ])
}

/// A process may open a socket for each path.
pub(super) fn open_files(host: &Host) -> Outcome {
    let Some((soft, hard)) = limit(host, "Max open files") else {
        return Outcome::not_checked("/proc/self/limits does not say");
    };
    match soft {
        Some(soft) if soft < OPEN_FILES_LEAST => {
            // Nobody but root goes beyond the hard limit.
            let most = hard.map_or(OPEN_FILES, |hard| hard.min(OPEN_FILES));
            let raise = (most >= OPEN_FILES_LEAST).then(|| format!("ulimit -Sn {most}"));
            Outcome::Found(vec![
                Finding::warning(format!("A process may open {soft} files."))
                    .evidence([
                        format!(
                            "soft limit {soft}, hard limit {}",
                            hard.map_or("unlimited".into(), |hard| hard.to_string())
                        ),
                        OF_SHELL.into(),
                    ])
                    .why(
                        "A link over TCP has up to 8 sockets, and NCCL opens more for each peer: a \
                     large job runs out.",
                    )
                    .fix(raise)
                    .fix([
                        "for users: \"* - nofile 65536\" in /etc/security/limits.d/nofile.conf",
                        "for services: LimitNOFILE=65536; for containers: --ulimit nofile=65536",
                    ]),
            ])
        }
        Some(soft) => Outcome::Well(soft.to_string()),
        None => Outcome::Well("unlimited".into()),
    }
}

/// `/dev/shm` has room for NCCL's buffers.
pub(super) fn shared_memory(host: &Host) -> Outcome {
    let mounts = host.text("proc/self/mounts").unwrap_or_default();
    // The last mount covers those before it.
    let mount = mounts
        .lines()
        .rev()
        .map(|line| line.split(' ').collect::<Vec<_>>());
    let mount = mount
        .into_iter()
        .find(|words| words.get(1) == Some(&"/dev/shm"));
    let Some(mount) = mount else {
        return Outcome::not_checked("/dev/shm is not mounted apart");
    };
    let options = mount.get(3).unwrap_or(&"").split(',');
    let mut sizes = options.filter_map(|option| option.strip_prefix("size="));
    match sizes.find_map(bytes) {
        Some(bytes) if bytes <= SHARED_BYTES_CONTAINER => Outcome::Found(vec![
            Finding::problem(format!("/dev/shm has {}.", size(bytes)))
                .evidence([mount.join(" ")])
                .why(
                    "NCCL shares buffers between the processes of a host there, tens of \
                     megabytes each: it fails when there is no room.",
                )
                .fix([
                    "Docker: --shm-size=16g or --ipc=host",
                    "Kubernetes: an emptyDir with medium: Memory at /dev/shm",
                ]),
        ]),
        Some(bytes) => Outcome::Well(size(bytes)),
        None => Outcome::Well("half of the memory".into()),
    }
}

/// A line of `/proc/self/limits`: the soft and the hard limit; none within is unlimited.
fn limit(host: &Host, name: &str) -> Option<(Option<u64>, Option<u64>)> {
    let text = host.text("proc/self/limits")?;
    let mut words = text
        .lines()
        .find_map(|line| line.strip_prefix(name))?
        .split_whitespace();
    let mut number = || match words.next()? {
        "unlimited" => Some(None),
        number => number.parse().ok().map(Some),
    };
    Some((number()?, number()?))
}

fn is_capable(host: &Host, capability: u32) -> bool {
    let text = host.text("proc/self/status").unwrap_or_default();
    let set = text.lines().find_map(|line| line.strip_prefix("CapEff:"));
    let set = set.and_then(|set| u64::from_str_radix(set.trim(), 16).ok());
    set.is_some_and(|set| set >> capability & 1 == 1)
}

/// Whether this is a user namespace other than the host's, in whose right alone the kernel lets adapters pass the
/// limit (`ib_umem_get`).
fn is_user_namespace(host: &Host) -> bool {
    let map = host.text("proc/self/uid_map").unwrap_or_default();
    let mut words = map.split_whitespace().peekable();
    words.peek().is_some() && !words.eq(["0", "0", "4294967295"])
}

/// `65536k`, as a mount's options have it.
fn bytes(text: &str) -> Option<u64> {
    let (number, shift) = match text.chars().last()? {
        'k' => (&text[..text.len() - 1], 10),
        'm' => (&text[..text.len() - 1], 20),
        'g' => (&text[..text.len() - 1], 30),
        _ => (text, 0),
    };
    number.parse::<u64>().ok()?.checked_mul(1 << shift)
}

fn size(bytes: u64) -> String {
    match bytes {
        0..0x10_0000 => format!("{} KiB", bytes >> 10),
        0x10_0000..0x4000_0000 => format!("{} MiB", bytes >> 20),
        _ => format!("{} GiB", bytes >> 30),
    }
}
