//! Tests of the settings: the table, both sources and their precedence, and every way of being wrong.

use super::*;
use proptest::prelude::*;

type Outcome = Result<Config, ConfigError>;

fn from_env(env: &[(&str, &str)]) -> Outcome {
    from_both(env, None)
}

fn from_both(env: &[(&str, &str)], toml: Option<&str>) -> Outcome {
    let env = env
        .iter()
        .map(|(name, value)| ((*name).to_owned(), (*value).to_owned()));
    Config::from_sources(env, toml)
}

fn message(outcome: Outcome) -> String {
    outcome
        .expect_err("a wrong setting was accepted")
        .to_string()
}

/// A file in a folder of its own, removed with the value.
struct Scratch(PathBuf);

impl Scratch {
    fn new(name: &str) -> Self {
        let folder =
            std::env::temp_dir().join(format!("thalweg-config-{}-{name}", std::process::id()));
        std::fs::create_dir_all(&folder).expect("the temporary folder can be written");
        Self(folder)
    }

    fn file(&self, content: &[u8]) -> String {
        let path = self.0.join("file");
        std::fs::write(&path, content).expect("the temporary folder can be written");
        path.into_os_string()
            .into_string()
            .expect("its name is text")
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

#[test]
fn defaults() {
    let config = Config::default();
    assert_eq!(config.paths, PathCount::Auto);
    assert_eq!(config.controller, ControllerKind::Delay);
    assert_eq!(config.selector, SelectorKind::Auto);
    assert_eq!(config.ifname, None);
    assert_eq!(config.family, Family::Any);
    assert!(config.port.is_any());
    assert!(config.secret.is_none());
    assert_eq!(config.dead_peer, Nanos::from_secs(30));
    assert_eq!(config.connect_timeout, Nanos::from_secs(30));
    assert_eq!(config.chunk_bytes, None);
    assert_eq!(config.eager_bytes, 8192);
    assert_eq!(config.window_bytes, 4 << 20);
    assert_eq!(config.io_threads, 0);
    assert_eq!(config.linger, Nanos::from_secs(1));
    assert_eq!(config.trace_file, None);
    assert_eq!(config.trace_interval, Nanos::from_millis(100));
    assert_eq!(config.fault_file, None);
    assert!(config.search);
}

#[test]
fn the_table_is_sound() {
    for variable in variables() {
        assert!(variable.name.starts_with(PREFIX), "{}", variable.name);
        assert!(
            !variable.allowed.is_empty() && !variable.help.is_empty(),
            "{}",
            variable.name
        );
        assert_eq!(
            variables()
                .iter()
                .filter(|other| other.name == variable.name)
                .count(),
            1
        );
        if let Some(default) = variable.default {
            let result = (variable.apply)(&mut Config::blank(), default);
            assert!(result.is_ok(), "{}: {default}", variable.name);
        }
    }
}

#[test]
fn the_documentation_mentions_every_variable() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/operations.md");
    let Ok(text) = std::fs::read_to_string(path) else {
        return;
    };
    for variable in variables() {
        assert!(
            text.contains(variable.name),
            "docs/operations.md lacks {}",
            variable.name
        );
    }
}

#[test]
fn every_setting_is_read_from_either_source() {
    let scratch = Scratch::new("either");
    let secret = scratch.file(b"open sesame\n");
    let settings = [
        ("paths", "6", "6"),
        ("controller", "\"nscc\"", "nscc"),
        ("selector", "\"power-of-two\"", "power-of-two"),
        ("ifname", "\"^docker,lo\"", "^docker,lo"),
        ("family", "\"ipv6\"", "ipv6"),
        ("transport", "\"verbs\"", "verbs"),
        ("hca", "\"^mlx5_1:2\"", "^mlx5_1:2"),
        ("gid_index", "3", "3"),
        ("tc", "106", "106"),
        ("control_tc", "184", "184"),
        ("sl", "3", "3"),
        ("ports", "4", "4"),
        ("relaxed_ordering", "\"on\"", "on"),
        ("nic_timestamps", "false", "off"),
        ("port", "\"47000-47100\"", "47000-47100"),
        ("secret_file", &format!("\"{secret}\""), &secret),
        ("dead_peer_ms", "5000", "5000"),
        ("connect_timeout_ms", "200", "200"),
        ("chunk_bytes", "\"64K\"", "65536"),
        ("eager_bytes", "0", "0"),
        ("window_bytes", "\"1G\"", "1024M"),
        ("io_threads", "2", "2"),
        ("linger_ms", "0", "0"),
        ("telemetry", "false", "off"),
        ("shm_dir", "\"/mnt/shm\"", "/mnt/shm"),
        ("trace_file", "\"/tmp/trace\"", "/tmp/trace"),
        ("trace_ms", "10", "10"),
        ("fault_file", "\"faults\"", "faults"),
        ("path_search", "false", "off"),
    ];
    let toml: String = settings
        .iter()
        .map(|(key, value, _)| format!("{key} = {value}"))
        .collect::<Vec<_>>()
        .join("\n");
    let env: Vec<(String, String)> = settings
        .iter()
        .map(|(key, _, value)| {
            (
                format!("{PREFIX}{}", key.to_uppercase()),
                (*value).to_owned(),
            )
        })
        .collect();
    let from_file = Config::from_sources([], Some(&toml)).expect("all are allowed");
    let from_env = Config::from_sources(env, None).expect("all are allowed");
    for config in [&from_file, &from_env] {
        assert_eq!(config.paths, PathCount::Fixed(6));
        assert_eq!(config.controller, ControllerKind::Nscc);
        assert_eq!(config.selector, SelectorKind::PowerOfTwo);
        assert_eq!(
            config.ifname.as_ref().map(ToString::to_string).as_deref(),
            Some("^docker,lo")
        );
        assert_eq!(config.family, Family::V6);
        assert_eq!(config.transport, TransportKind::Verbs);
        assert_eq!(config.hca, HcaFilter::parse("^mlx5_1:2"));
        assert_eq!(config.gid_index, Some(3));
        assert_eq!(config.traffic_class, 106);
        assert_eq!(config.control_traffic_class, Some(184));
        assert_eq!((config.service_level, config.ports), (3, 4));
        assert_eq!(config.relaxed_ordering, RelaxedOrdering::On);
        assert!(!config.nic_timestamps);
        assert_eq!(
            config.port,
            PortRange {
                first: 47000,
                last: 47100
            }
        );
        assert_eq!(
            config.secret.as_ref().map(Secret::as_bytes),
            Some(&b"open sesame"[..])
        );
        assert_eq!(config.dead_peer, Nanos::from_secs(5));
        assert_eq!(config.connect_timeout, Nanos::from_millis(200));
        assert_eq!(config.chunk_bytes, Some(65536));
        assert_eq!(config.eager_bytes, 0);
        assert_eq!(config.window_bytes, 1 << 30);
        assert_eq!(config.io_threads, 2);
        assert_eq!(config.linger, Nanos::ZERO);
        assert!(!config.telemetry);
        assert_eq!(config.shm_folder, Path::new("/mnt/shm"));
        assert_eq!(config.trace_file.as_deref(), Some(Path::new("/tmp/trace")));
        assert_eq!(config.trace_interval, Nanos::from_millis(10));
        assert_eq!(config.fault_file.as_deref(), Some(Path::new("faults")));
        assert!(!config.search);
    }
    // Whoever adds a setting adds it here. Not here: the file itself, and the secret in clear.
    assert_eq!(settings.len(), variables().len() - 2);
}

#[test]
fn the_environment_prevails() {
    let toml = "paths = 3\neager_bytes = 0\nsecret = \"from the file\"";
    let env = [
        ("THALWEG_PATHS", "auto"),
        ("THALWEG_SECRET", "from the environment"),
    ];
    let config = from_both(&env, Some(toml)).expect("all are allowed");
    assert_eq!(config.paths, PathCount::Auto);
    assert_eq!(config.eager_bytes, 0);
    assert_eq!(
        config.secret.expect("there is one").as_bytes(),
        b"from the environment"
    );
}

#[test]
fn nccl_settings_count_where_ours_are_not_set() {
    let nccl = [
        ("NCCL_SOCKET_IFNAME", "=eth1"),
        ("NCCL_SOCKET_FAMILY", "AF_INET6"),
        ("NCCL_IB_DISABLE", "1"),
        ("NCCL_IB_HCA", "=mlx5_0"),
        ("NCCL_IB_GID_INDEX", "3"),
        ("NCCL_IB_TC", "106"),
        ("NCCL_IB_FIFO_TC", "184"),
        ("NCCL_IB_SL", "2"),
        ("NCCL_IB_PCI_RELAXED_ORDERING", "0"),
    ];
    let config = from_env(&nccl).expect("all are allowed");
    assert!(config.ifname.expect("there is one").admits("eth1"));
    assert_eq!(config.family, Family::V6);
    assert_eq!(config.transport, TransportKind::Tcp);
    assert_eq!(config.hca, HcaFilter::parse("=mlx5_0"));
    assert_eq!(config.gid_index, Some(3));
    assert_eq!(
        (
            config.traffic_class,
            config.control_traffic_class,
            config.service_level
        ),
        (106, Some(184), 2)
    );
    assert_eq!(config.relaxed_ordering, RelaxedOrdering::Off);

    let ours = [
        ("THALWEG_IFNAME", "ib"),
        ("THALWEG_FAMILY", "any"),
        ("THALWEG_TRANSPORT", "auto"),
    ];
    let toml = "ifname = \"ib\"\nfamily = \"any\"";
    for config in [
        from_env(&[&nccl[..], &ours].concat()),
        from_both(&nccl, Some(toml)),
    ] {
        let config = config.expect("all are allowed");
        assert_eq!(
            config.ifname.map(|filter| filter.to_string()).as_deref(),
            Some("ib")
        );
        assert_eq!(config.family, Family::Any);
    }

    // What NCCL itself passes over.
    let odd = [
        ("NCCL_SOCKET_IFNAME", "^"),
        ("NCCL_SOCKET_FAMILY", "IPv4"),
        ("NCCL_IB_DISABLE", "0"),
        ("NCCL_IB_HCA", ""),
        ("NCCL_IB_GID_INDEX", "-1"),
        ("NCCL_IB_TC", "high"),
        ("NCCL_IB_SL", "16"),
        ("NCCL_IB_PCI_RELAXED_ORDERING", "2"),
    ];
    let config = from_env(&odd).expect("NCCL's own settings are never refused");
    assert_eq!((config.ifname, config.family), (None, Family::Any));
    assert_eq!((config.transport, config.hca), (TransportKind::Auto, None));
    assert_eq!(
        (config.gid_index, config.traffic_class, config.service_level),
        (None, 0, 0)
    );
    assert_eq!(config.relaxed_ordering, RelaxedOrdering::Auto);
}

/// A sender says whether it speaks ECN; that there is congestion is for switches to say.
#[test]
fn a_traffic_class_never_means_congestion() {
    for name in ["THALWEG_TC", "THALWEG_CONTROL_TC"] {
        for text in ["3", "27", "107", "255", "256", "-1", "high"] {
            let error = from_env(&[(name, text)]).expect_err(text).to_string();
            assert!(
                error.contains(name) && error.contains("four times the DSCP"),
                "{error}"
            );
        }
    }
    for (text, class) in [("104", 104), ("106", 106), ("107", 104), ("3", 0)] {
        let config = from_env(&[("NCCL_IB_TC", text), ("NCCL_IB_FIFO_TC", text)]).expect(text);
        let classes = (config.traffic_class, config.control_traffic_class);
        assert_eq!(classes, (class, Some(class)));
    }
}

#[test]
fn interface_filters() {
    let cases: [(&str, &[&str], &[&str]); 7] = [
        ("eth", &["eth0", "eth1", "eth"], &["et", "ib0", "veth0"]),
        ("eth0,ib", &["eth0", "eth01", "ib3"], &["eth1", "lo"]),
        ("=eth1", &["eth1"], &["eth10", "eth0"]),
        ("=eth1,ib0", &["eth1", "ib0"], &["eth10", "ib01"]),
        ("^docker,lo", &["eth0", "ib0"], &["docker0", "lo"]),
        ("^=eth1", &["eth10", "eth0"], &["eth1"]),
        (" eth0:1 , ,ib0 ", &["eth0", "ib0"], &["lo", "1"]),
    ];
    for (text, admitted, refused) in cases {
        let config = from_env(&[("THALWEG_IFNAME", text)]).expect(text);
        let filter = config.ifname.expect(text);
        for name in admitted {
            assert!(filter.admits(name), "{text} admits {name}");
        }
        for name in refused {
            assert!(!filter.admits(name), "{text} refuses {name}");
        }
    }
}

#[test]
fn values_that_are_not_allowed() {
    let wrong = [
        ("PATHS", "0"),
        ("PATHS", "65"),
        ("PATHS", "+4"),
        ("PATHS", "four"),
        ("PATHS", "99999999999999999999999"),
        ("CONTROLLER", "cubic"),
        ("SELECTOR", "Adaptive"),
        ("IFNAME", ""),
        ("IFNAME", "^"),
        ("IFNAME", "=,"),
        ("FAMILY", "AF_INET"),
        ("PORT", "65536"),
        ("PORT", "5-4"),
        ("PORT", "0-7"),
        ("PORT", "1-2-3"),
        ("PORT", "-"),
        ("SECRET", ""),
        ("DEAD_PEER_MS", "99"),
        ("DEAD_PEER_MS", "3600001"),
        ("DEAD_PEER_MS", "30s"),
        ("CONNECT_TIMEOUT_MS", "0"),
        ("CHUNK_BYTES", "4095"),
        ("CHUNK_BYTES", "4097"),
        ("CHUNK_BYTES", "5M"),
        ("CHUNK_BYTES", "K"),
        ("CHUNK_BYTES", "64KK"),
        ("CHUNK_BYTES", "18446744073709551615G"),
        ("EAGER_BYTES", "65537"),
        ("WINDOW_BYTES", "65535"),
        ("WINDOW_BYTES", "2G"),
        ("IO_THREADS", "17"),
        ("LINGER_MS", "-1"),
        ("TRACE_FILE", ""),
        ("TRACE_MS", "0"),
        ("PATH_SEARCH", "yes"),
    ];
    for (bare, value) in wrong {
        let name = format!("{PREFIX}{bare}");
        let variable = variables()
            .iter()
            .find(|variable| variable.name == name)
            .expect("it is in the table");
        let text = message(from_env(&[(&name, value)]));
        assert!(text.starts_with(&name), "{text}");
        assert!(text.ends_with(variable.allowed), "{text}");
        let key = variable.key().expect("the file may hold it");
        let text = message(from_both(&[], Some(&format!("{key} = \"{value}\""))));
        assert!(
            text.starts_with(&format!("{key} (in the configuration file) is ")),
            "{text}"
        );
    }
}

#[test]
fn the_edges_of_the_ranges_are_allowed() {
    let right = [
        ("PATHS", "1"),
        ("PATHS", "64"),
        ("PORT", "1"),
        ("PORT", "65535"),
        ("PORT", "7-7"),
        ("DEAD_PEER_MS", "100"),
        ("DEAD_PEER_MS", " 3600000 "),
        ("CHUNK_BYTES", "4096"),
        ("CHUNK_BYTES", "4224"),
        ("CHUNK_BYTES", "4m"),
        ("EAGER_BYTES", "64k"),
        ("WINDOW_BYTES", "64K"),
        ("WINDOW_BYTES", "1g"),
        ("IO_THREADS", "16"),
        ("LINGER_MS", "600000"),
        ("TRACE_MS", "1"),
        ("PATH_SEARCH", "on"),
    ];
    for (bare, value) in right {
        let outcome = from_env(&[(&format!("{PREFIX}{bare}"), value)]);
        assert!(outcome.is_ok(), "{bare}={value}: {outcome:?}");
    }
}

#[test]
fn messages_read_well() {
    let cases = [
        (
            from_env(&[("THALWEG_PATHS", "99")]),
            "THALWEG_PATHS is \"99\", but must be auto, or 1 to 64",
        ),
        (
            from_env(&[("THALWEG_LINGER_MS", "")]),
            "THALWEG_LINGER_MS is empty, but must be 0 to 600000 (milliseconds)",
        ),
        (
            from_env(&[("THALWEG_PATSH", "4")]),
            "unknown setting THALWEG_PATSH in the environment; did you mean THALWEG_PATHS?",
        ),
        (
            from_env(&[("thalweg_paths", "4")]),
            "unknown setting thalweg_paths in the environment; did you mean THALWEG_PATHS?",
        ),
        (
            from_env(&[("THALWEG_COLOUR", "red")]),
            "unknown setting THALWEG_COLOUR in the environment; docs/operations.md lists them all",
        ),
        (
            from_both(&[], Some("THALWEG_PATHS = 4")),
            "unknown setting THALWEG_PATHS in the configuration file; did you mean paths?",
        ),
        (
            from_both(&[], Some("paths = 4\ndead_per_ms = 5")),
            "unknown setting dead_per_ms in the configuration file; did you mean dead_peer_ms?",
        ),
        (
            from_both(&[], Some("paths = [1]")),
            "paths (in the configuration file) is a TOML array, but must be auto, or 1 to 64",
        ),
        (
            from_env(&[("THALWEG_SECRET", "a"), ("THALWEG_SECRET_FILE", "b")]),
            "the environment sets both the secret and a file with the secret; remove one of them",
        ),
        (
            from_env(&[("THALWEG_SECRET_FILE", "/nonexistent")]),
            "the file /nonexistent named by THALWEG_SECRET_FILE cannot be read: No such file or \
             directory (os error 2)",
        ),
        (
            from_env(&[("THALWEG_SECRET_FILE", "/dev/zero")]),
            "the file /dev/zero named by THALWEG_SECRET_FILE is not a regular file",
        ),
    ];
    for (outcome, expected) in cases {
        assert_eq!(message(outcome), expected);
    }
    let text = message(from_both(&[], Some("paths = 4\n\npaths = = 5\n")));
    assert!(
        text.starts_with("line 3 of the configuration file is not valid TOML: "),
        "{text}"
    );
}

#[test]
fn every_misspelling_by_one_letter_is_recognised() {
    for variable in variables() {
        let bare = variable.bare_name();
        for at in 0..bare.len() {
            let mut shorter = bare.to_owned();
            shorter.remove(at);
            let name = format!("{PREFIX}{shorter}");
            if variables().iter().any(|other| other.name == name) {
                continue;
            }
            let text = message(from_env(&[(&name, "1")]));
            assert!(text.contains("did you mean"), "{text}");
        }
    }
}

#[test]
fn secrets_in_files() {
    let scratch = Scratch::new("secrets");
    let read = |content: &[u8]| {
        let path = scratch.file(content);
        from_env(&[("THALWEG_SECRET_FILE", &path)])
            .map(|config| config.secret.expect("it was given").as_bytes().to_vec())
    };
    assert_eq!(read(b"open sesame\n"), Ok(b"open sesame".to_vec()));
    assert_eq!(read(b"open sesame\r\n"), Ok(b"open sesame".to_vec()));
    assert_eq!(
        read(b" \xff\x00 "),
        Ok(b" \xff\x00 ".to_vec()),
        "any bytes, blanks included"
    );
    assert_eq!(read(b"a\n\n"), Ok(b"a\n".to_vec()), "one newline only");
    assert_eq!(
        read(&[b'x'; SECRET_BYTES_MAX]),
        Ok(vec![b'x'; SECRET_BYTES_MAX])
    );
    for (content, reason) in [
        (&b""[..], "is empty"),
        (b"\n", "is empty"),
        (&[b'x'; 4097], "is larger than 4096 bytes"),
    ] {
        let text = read(content)
            .expect_err("a wrong file was accepted")
            .to_string();
        assert!(text.ends_with(reason), "{text}");
    }
}

#[test]
fn a_secret_is_never_shown() {
    let config = from_env(&[("THALWEG_SECRET", "open sesame")]).expect("it is allowed");
    assert!(!format!("{config:?}").contains("sesame"));
    let long = "open sesame".repeat(1000);
    for outcome in [
        from_env(&[("THALWEG_SECRET", &long)]),
        from_both(&[], Some(&format!("secret = \"{long}\""))),
        from_both(&[], Some("secret = { open = \"sesame\" }")),
        from_both(&[], Some("secret = \"open sesame")),
        from_both(&[], Some("secret = open sesame")),
        from_both(&[], Some("secret = \"open \\sesame\"")),
    ] {
        let text = message(outcome);
        assert!(!text.contains("sesame"), "{text}");
    }
}

#[test]
fn blanks_belong_to_a_secret() {
    let config = from_env(&[("THALWEG_SECRET", " a ")]).expect("it is allowed");
    assert_eq!(config.secret.expect("it was given").as_bytes(), b" a ");
}

#[test]
fn the_configuration_file_is_checked() {
    let scratch = Scratch::new("file");
    let path = scratch.file(b"paths = 4");
    assert_eq!(read_config_file(&path), Ok("paths = 4".to_owned()));
    let path = scratch.file(b"paths = \xff");
    let text = read_config_file(&path)
        .expect_err("it is not text")
        .to_string();
    assert_eq!(
        text,
        format!("the file {path} named by THALWEG_CONFIG is not UTF-8 text")
    );
    let folder = scratch.0.to_str().expect("its name is text");
    let text = read_config_file(folder)
        .expect_err("it is a folder")
        .to_string();
    assert!(text.ends_with("is not a regular file"), "{text}");
}

/// The process's own environment can't be changed while other tests run; so a child has one.
#[test]
fn a_process_reads_its_own_environment() {
    use std::os::unix::ffi::OsStrExt;

    let scratch = Scratch::new("process");
    let file = scratch.file(b"paths = 3\nlinger_ms = 7\n");
    let run = |name: &str, value: &std::ffi::OsStr| {
        let output = std::process::Command::new(std::env::current_exe().expect("it is running"))
            .args([
                "--exact",
                "config::tests::print_settings",
                "--ignored",
                "--nocapture",
            ])
            .env_clear()
            .env("THALWEG_CONFIG", &file)
            .env(name, value)
            .output()
            .expect("this same program can be started");
        String::from_utf8_lossy(&output.stdout).into_owned()
    };
    let text = run("THALWEG_PATHS", "5".as_ref());
    assert!(text.contains("settings: paths 5, linger 7 ms"), "{text}");
    let text = run("THALWEG_CONFIG", "/nonexistent".as_ref());
    assert!(
        text.contains("refused: the file /nonexistent named by THALWEG_CONFIG"),
        "{text}"
    );
    let text = run("THALWEG_PORT", std::ffi::OsStr::from_bytes(b"\xff"));
    assert!(
        text.contains("refused: THALWEG_PORT is not UTF-8 text"),
        "{text}"
    );
    let text = run("PYTHONPATH", std::ffi::OsStr::from_bytes(b"\xff"));
    assert!(text.contains("settings: paths 3"), "{text}");
}

#[test]
#[ignore = "is run by a_process_reads_its_own_environment, as a process of its own"]
fn print_settings() {
    match Config::from_env() {
        Ok(config) => println!("settings: paths {}, linger {}", config.paths, config.linger),
        Err(error) => println!("refused: {error}"),
    }
}

#[test]
fn what_is_not_ours_is_passed_over() {
    let config = from_env(&[
        ("PATH", "/bin"),
        ("NCCL_DEBUG", "INFO"),
        ("THALWEGX", "1"),
        ("", ""),
    ]);
    assert!(config.is_ok());
}

/// Names that are nearly ours, values that are nearly right, and anything at all.
fn texts() -> impl Strategy<Value = (String, String)> {
    let known = proptest::sample::select(
        variables()
            .iter()
            .map(|variable| variable.name.to_owned())
            .collect::<Vec<_>>(),
    );
    let name = prop_oneof![4 => known, 1 => "(THALWEG|thalweg)_.{0,12}", 1 => any::<String>()];
    let value = prop_oneof![
        "[0-9]{1,6}[KMG]?",
        "auto|on|off|fixed|hash|any|ipv4|\\^?=?[a-z]{0,4}(,[a-z]{1,3})?",
        "[0-9]{1,5}-[0-9]{1,5}",
        any::<String>(),
    ];
    (name, value)
}

proptest! {
    /// Whatever is set, the outcome is a configuration within its ranges or one short line.
    #[test]
    fn any_environment(env in prop::collection::vec(texts(), 0..6), toml in prop::option::of(any::<String>())) {
        check(&Config::from_sources(env, toml.as_deref()))?;
    }

    #[test]
    fn any_file(settings in prop::collection::vec(texts(), 0..6)) {
        let toml: String = settings
            .iter()
            .map(|(name, value)| {
                let key = name.strip_prefix(PREFIX).unwrap_or(name).to_lowercase();
                format!("{key} = {value:?}")
            })
            .collect::<Vec<_>>()
            .join("\n");
        check(&Config::from_sources([], Some(&toml)))?;
    }

    /// What is printed can be set again.
    #[test]
    fn names_and_values_are_read_back(paths in 1_u8..=64, first in 1_u16.., more in 0_u16.., names in prop::collection::vec("[a-z]{1,5}", 1..4), signs in "\\^?=?") {
        let port = PortRange { first, last: first.saturating_add(more) };
        let filter = format!("{signs}{}", names.join(","));
        let config = from_env(&[
            ("THALWEG_PATHS", &PathCount::Fixed(paths).to_string()),
            ("THALWEG_PORT", &port.to_string()),
            ("THALWEG_IFNAME", &filter),
        ]).expect("all are allowed");
        prop_assert_eq!(config.paths, PathCount::Fixed(paths));
        prop_assert_eq!(config.port, port);
        prop_assert_eq!(config.ifname.expect("it was given").to_string(), filter);
    }
}

fn check(outcome: &Outcome) -> Result<(), TestCaseError> {
    match outcome {
        Ok(config) => {
            prop_assert!(
                !matches!(config.paths, PathCount::Fixed(paths) if !(1..=64).contains(&paths))
            );
            prop_assert!(config.port.first <= config.port.last);
            prop_assert!(
                config
                    .chunk_bytes
                    .is_none_or(|bytes| bytes.is_multiple_of(128) && bytes >= 4096)
            );
            prop_assert!(config.dead_peer >= Nanos::from_millis(100));
            prop_assert!(config.trace_interval > Nanos::ZERO);
        }
        Err(error) => {
            let text = error.to_string();
            prop_assert!(!text.chars().any(char::is_control), "{:?}", text);
            prop_assert!(text.chars().count() < 1200, "{}", text);
        }
    }
    Ok(())
}

#[test]
fn rdma_ports_are_named_as_nccl_does() {
    let admits = |filter: &str, name: &str, port: u8| {
        let filter = HcaFilter::parse(filter).expect(filter);
        filter.admits(name, port)
    };
    for (filter, name, port, admitted) in [
        ("mlx5", "mlx5_10", 2, true),
        ("mlx5_1", "mlx5_10", 1, true),
        ("=mlx5_1", "mlx5_10", 1, false),
        ("=mlx5_1,mlx5_10:2", "mlx5_10", 2, true),
        ("=mlx5_1,mlx5_10:2", "mlx5_10", 1, false),
        ("^mlx5_0:1", "mlx5_0", 1, false),
        ("^mlx5_0:1", "mlx5_0", 2, true),
        ("^=mlx5_0, bnxt_re0", "bnxt_re0", 1, false),
        ("^=mlx5_0, bnxt_re0", "bnxt_re01", 1, true),
    ] {
        assert_eq!(
            admits(filter, name, port),
            admitted,
            "{filter} {name}:{port}"
        );
    }
    for refused in [
        "",
        "^",
        "=",
        ",",
        "mlx5_0:",
        "mlx5_0:x",
        "mlx5_0:0",
        "mlx5_0:300",
    ] {
        assert_eq!(HcaFilter::parse(refused), None, "{refused}");
    }
}
