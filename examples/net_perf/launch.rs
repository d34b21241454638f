//! Who am I among the ranks? Found from what torchrun, MPI or Slurm put into the environment, or
//! made by starting this program N times on this host (`--local N`).

use std::collections::BTreeMap;
use std::env;
use std::process::{Child, Command, ExitCode};
use std::thread;
use std::time::{Duration, Instant};

/// The port of the rendezvous when nobody names one.
const DEFAULT_PORT: u16 = 29_400;

/// A rank's place, before it has met the others.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Place {
    /// Number of this process.
    pub rank: usize,
    /// How many there are.
    pub size: usize,
    /// Where rank 0 waits: `host:port`, or `unix:/path` when all ranks share a file system.
    pub meeting: String,
    /// Which launcher said so.
    pub launcher: &'static str,
}

/// The variables of one launcher: rank, size, ranks on this host.
struct Launcher {
    name: &'static str,
    rank: &'static str,
    size: &'static [&'static str],
    local_size: &'static str,
}

/// In the order in which they are believed: an `mpirun` inside a Slurm batch job sees Slurm's
/// variables as well, and there they describe the batch step.
const LAUNCHERS: [Launcher; 4] = [
    Launcher {
        name: "torchrun",
        rank: "RANK",
        size: &["WORLD_SIZE"],
        local_size: "LOCAL_WORLD_SIZE",
    },
    Launcher {
        name: "Open MPI",
        rank: "OMPI_COMM_WORLD_RANK",
        size: &["OMPI_COMM_WORLD_SIZE"],
        local_size: "OMPI_COMM_WORLD_LOCAL_SIZE",
    },
    Launcher {
        name: "MPI (PMI)",
        rank: "PMI_RANK",
        size: &["PMI_SIZE"],
        local_size: "MPI_LOCALNRANKS",
    },
    Launcher {
        name: "Slurm",
        rank: "SLURM_PROCID",
        size: &["SLURM_STEP_NUM_TASKS", "SLURM_NTASKS"],
        local_size: "",
    },
];

/// Reads this process's place from the environment.
pub fn place(environment: &BTreeMap<String, String>) -> Result<Place, String> {
    let number = |name: &str| -> Result<Option<usize>, String> {
        environment
            .get(name)
            .map(|v| {
                v.trim()
                    .parse()
                    .map_err(|_| format!("{name}={v} is not a number"))
            })
            .transpose()
    };
    for launcher in &LAUNCHERS {
        let Some(rank) = number(launcher.rank)? else {
            continue;
        };
        let mut size = None;
        for name in launcher.size {
            size = size.or(number(name)?);
        }
        let size = size.ok_or_else(|| {
            format!(
                "{} is set but {} is not: set both",
                launcher.rank, launcher.size[0]
            )
        })?;
        if rank >= size {
            return Err(format!(
                "{}={rank} is not below {}={size}",
                launcher.rank, launcher.size[0]
            ));
        }
        let one_host = number(launcher.local_size)? == Some(size);
        let meeting = meeting(environment, launcher, one_host)?;
        let launcher = if meeting.starts_with("unix:") {
            "local"
        } else {
            launcher.name
        };
        return Ok(Place {
            rank,
            size,
            meeting,
            launcher,
        });
    }
    Err(
        "no launcher found: use --local N, or torchrun, mpirun or srun, \
         or set RANK, WORLD_SIZE, MASTER_ADDR and MASTER_PORT"
            .to_owned(),
    )
}

/// Where rank 0 waits.
fn meeting(
    environment: &BTreeMap<String, String>,
    launcher: &Launcher,
    one_host: bool,
) -> Result<String, String> {
    let host = if let Some(host) = environment.get("MASTER_ADDR") {
        host.clone()
    } else if one_host {
        "127.0.0.1".to_owned()
    } else if let Some(nodes) = environment
        .get("SLURM_STEP_NODELIST")
        .or_else(|| environment.get("SLURM_JOB_NODELIST"))
    {
        // Slurm puts rank 0 on the first node of the list.
        first_node(nodes)
            .ok_or_else(|| format!("cannot read the node list `{nodes}`: set MASTER_ADDR"))?
    } else {
        return Err(format!(
            "{} does not say where rank 0 runs: set MASTER_ADDR to its host for all ranks",
            launcher.name
        ));
    };
    if host.starts_with("unix:") {
        return Ok(host);
    }
    let port = match environment.get("MASTER_PORT") {
        Some(port) => {
            let port: u16 = port
                .parse()
                .map_err(|_| format!("MASTER_PORT={port} is not a port"))?;
            // torchrun's agent itself listens on MASTER_PORT and says so.
            let taken = environment
                .get("TORCHELASTIC_USE_AGENT_STORE")
                .is_some_and(|v| v == "True");
            port.checked_add(u16::from(taken))
                .ok_or_else(|| format!("MASTER_PORT={port} has no port above it"))?
        }
        // Two jobs of one cluster should not meet.
        None => match environment.get("SLURM_JOB_ID").map(|j| j.parse::<u64>()) {
            Some(Ok(job)) => 20_000 + u16::try_from(job % 10_000).unwrap_or(0),
            _ => DEFAULT_PORT,
        },
    };
    if host.contains(':') && !host.starts_with('[') {
        return Ok(format!("[{host}]:{port}"));
    }
    Ok(format!("{host}:{port}"))
}

/// The first host of a Slurm node list such as `rack[03-05,9]-gpu,other1`.
fn first_node(list: &str) -> Option<String> {
    let (head, rest) = match list.find([',', '[']) {
        Some(at) if list.as_bytes()[at] == b'[' => (&list[..at], Some(&list[at + 1..])),
        Some(at) => (&list[..at], None),
        None => (list, None),
    };
    let name = match rest {
        None => head.to_owned(),
        Some(rest) => {
            let close = rest.find(']')?;
            let first = rest[..close].split([',', '-']).next()?;
            let tail = rest[close + 1..].split(',').next().unwrap_or_default();
            format!("{head}{first}{tail}")
        }
    };
    (!name.is_empty()).then_some(name)
}

/// Starts this program `size` times on this host, with the same arguments, and waits for all. When
/// one fails the others get a moment to say what they saw, and are then ended.
pub fn local(size: usize, arguments: &[String]) -> ExitCode {
    /// How long the others may go on after one rank has failed.
    const GRACE: Duration = Duration::from_secs(5);
    let program = match env::current_exe() {
        Ok(program) => program,
        Err(e) => {
            eprintln!("net_perf: cannot find this program's own file: {e}");
            return ExitCode::FAILURE;
        }
    };
    let socket = env::temp_dir().join(format!("net_perf-{}.sock", std::process::id()));
    let mut children: Vec<Option<Child>> = Vec::with_capacity(size);
    let mut failed: Option<Instant> = None;
    for rank in 0..size {
        let mut command = Command::new(&program);
        command
            .args(arguments)
            .env("RANK", rank.to_string())
            .env("WORLD_SIZE", size.to_string())
            .env("LOCAL_RANK", rank.to_string())
            .env("LOCAL_WORLD_SIZE", size.to_string())
            .env("MASTER_ADDR", format!("unix:{}", socket.display()));
        if env::var_os("NCCL_SOCKET_IFNAME").is_none() {
            command.env("NCCL_SOCKET_IFNAME", "lo");
        }
        match command.spawn() {
            Ok(child) => children.push(Some(child)),
            Err(e) => {
                eprintln!("net_perf: cannot start rank {rank}: {e}");
                failed = Some(Instant::now());
                break;
            }
        }
    }
    let mut worst = i32::from(failed.is_some());
    while children.iter().any(Option::is_some) {
        for (rank, slot) in children.iter_mut().enumerate() {
            let Some(child) = slot else { continue };
            let status = match child.try_wait() {
                Ok(None) => {
                    if failed.is_some_and(|t| t.elapsed() > GRACE) {
                        let _ = child.kill();
                    }
                    continue;
                }
                Ok(Some(status)) => status,
                Err(e) => {
                    eprintln!("net_perf: lost rank {rank}: {e}");
                    failed.get_or_insert_with(Instant::now);
                    worst = worst.max(1);
                    *slot = None;
                    continue;
                }
            };
            if !status.success() {
                let code = status.code().unwrap_or(1);
                if status.code().is_none() && failed.is_none() {
                    eprintln!("net_perf: rank {rank} was ended by a signal ({status})");
                }
                // A rank that only found wrong bytes has finished in good order.
                if code != i32::from(crate::EXIT_WRONG_DATA) {
                    failed.get_or_insert_with(Instant::now);
                }
                worst = if worst == 0 { code } else { worst.min(code) };
            }
            *slot = None;
        }
        thread::sleep(Duration::from_millis(5));
    }
    let _ = std::fs::remove_file(&socket);
    ExitCode::from(u8::try_from(worst).unwrap_or(1))
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a failure here is a failed test")]
mod tests {
    use super::*;

    fn with(pairs: &[(&str, &str)]) -> Result<Place, String> {
        let map = pairs
            .iter()
            .map(|(k, v)| ((*k).to_owned(), (*v).to_owned()))
            .collect();
        place(&map)
    }

    #[test]
    fn launchers() {
        let torch = [
            ("RANK", "3"),
            ("WORLD_SIZE", "8"),
            ("MASTER_ADDR", "node1"),
            ("MASTER_PORT", "1234"),
        ];
        let p = with(&torch).unwrap();
        assert_eq!((p.rank, p.size, p.meeting.as_str()), (3, 8, "node1:1234"));
        let mut elastic = torch.to_vec();
        elastic.push(("TORCHELASTIC_USE_AGENT_STORE", "True"));
        assert_eq!(with(&elastic).unwrap().meeting, "node1:1235");
        let slurm = [
            ("SLURM_PROCID", "1"),
            ("SLURM_NTASKS", "4"),
            ("SLURM_JOB_ID", "30017"),
            ("SLURM_JOB_NODELIST", "rack[03-05,9]-gpu,other1"),
        ];
        let p = with(&slurm).unwrap();
        assert_eq!(
            (p.rank, p.size, p.meeting.as_str()),
            (1, 4, "rack03-gpu:20017")
        );
        let mut mpi = slurm.to_vec();
        mpi.extend([
            ("OMPI_COMM_WORLD_RANK", "2"),
            ("OMPI_COMM_WORLD_SIZE", "3"),
            ("OMPI_COMM_WORLD_LOCAL_SIZE", "3"),
        ]);
        let p = with(&mpi).unwrap();
        assert_eq!((p.rank, p.size, p.launcher), (2, 3, "Open MPI"));
        assert_eq!(p.meeting, "127.0.0.1:20017");
    }

    #[test]
    fn mistakes() {
        assert!(with(&[]).unwrap_err().contains("--local"));
        assert!(with(&[("RANK", "0")]).unwrap_err().contains("WORLD_SIZE"));
        assert!(
            with(&[("PMI_RANK", "0"), ("PMI_SIZE", "2")])
                .unwrap_err()
                .contains("MASTER_ADDR")
        );
        assert!(
            with(&[("RANK", "2"), ("WORLD_SIZE", "2")])
                .unwrap_err()
                .contains("not below")
        );
    }

    #[test]
    fn node_lists() {
        assert_eq!(first_node("a1,a2").as_deref(), Some("a1"));
        assert_eq!(first_node("a[1-2]").as_deref(), Some("a1"));
        assert_eq!(first_node("solo").as_deref(), Some("solo"));
        assert_eq!(first_node("a[1"), None);
    }
}
