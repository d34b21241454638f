//! Checks of the libraries that a job would load: NCCL or RCCL, and the plugin, found as the loader
//! finds them. Versions are read from the files: loading a library would run its code, and NCCL's
//! needs a GPU's driver.

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::io::Read;
use std::path::{Path, PathBuf};

use super::host::Host;
use super::nccl::{PLUGIN, is_ours, plugins};
use super::{Finding, Outcome};

/// What frameworks load, and where their Python packages have their own.
const LIBRARIES: [(&str, &str, &str); 2] = [
    ("NCCL", "libnccl.so.2", "nvidia/nccl/lib/libnccl.so.2"),
    ("RCCL", "librccl.so.1", "torch/lib/librccl.so"),
];
/// Where the loader looks last.
const FOLDERS: &[&str] = &["lib64", "usr/lib64", "lib", "usr/lib", "usr/local/lib"];
/// NCCL has all of its GPU code in it, and is this large at most.
const LIBRARY_BYTES_MAX: u64 = 2 << 30;
/// The list of the loader, of many thousand libraries.
const CACHE_BYTES_MAX: u64 = 16 << 20;

/// Which tables of a net plugin a version of NCCL knows: its first version, and the oldest and newest
/// table. From the tags of NCCL's sources (`src/plugin/net`).
const TABLES: &[((u32, u32), u8, u8)] = &[
    ((2, 12), 4, 5),
    ((2, 13), 4, 6),
    ((2, 19), 5, 7),
    ((2, 20), 5, 8),
    ((2, 24), 5, 9),
    ((2, 26), 6, 10),
    ((2, 28), 6, 11),
    ((2, 30), 6, 12),
];

/// A version of NCCL: 2, 30, 7.
type Version = (u32, u32, u32);

/// NCCL's library, or RCCL's.
struct Nccl {
    path: String,
    name: &'static str,
    version: Option<Version>,
}

/// NCCL is there, new enough, and of one version.
pub(super) fn nccl(host: &Host) -> Outcome {
    let found = nccls(host);
    if found.is_empty() {
        return Outcome::not_checked(
            "no libnccl.so.2 where the loader or Python would find it: run it in the job's \
             environment",
        );
    }
    let show = |nccl: &Nccl| match nccl.version {
        Some((major, minor, patch)) => {
            format!("{}: {} {major}.{minor}.{patch}", nccl.path, nccl.name)
        }
        None => format!("{}: of unknown version", nccl.path),
    };
    let mut findings = Vec::new();
    let old: Vec<&Nccl> = found
        .iter()
        .filter(|nccl| nccl.version.is_some_and(|v| v < (2, 13, 0)))
        .collect();
    if !old.is_empty() {
        findings.push(
            Finding::problem("NCCL is too old for the plugin.")
                .evidence(old.iter().map(|nccl| show(nccl)))
                .why(
                    "Versions before 2.13 know none of the plugin's tables, and use their own \
                     transports.",
                )
                .fix(["python3 -m pip install --upgrade nvidia-nccl-cu12, or a newer framework"]),
        );
    }
    let versions: BTreeSet<_> = found
        .iter()
        .filter_map(|nccl| Some((nccl.name, nccl.version?)))
        .collect();
    let makers: BTreeSet<_> = versions.iter().map(|(name, _)| name).collect();
    if versions.len() > makers.len() {
        findings.push(
            Finding::warning("There are several versions of NCCL.")
                .evidence(found.iter().map(show))
                .why(
                    "Which one a job loads depends on its environment; ranks with different \
                     versions do not start, or hang.",
                )
                .fix([
                    "NCCL_DEBUG=VERSION shows the one that is loaded: keep it, and remove the \
                     others",
                ]),
        );
    }
    let all: Vec<String> = found.iter().map(show).collect();
    Outcome::of(findings, all.join("; "))
}

/// The plugin is where NCCL looks for it, of this version, and made for the NCCL that is there.
pub(super) fn plugin(host: &Host) -> Outcome {
    let named = plugins(host);
    let ours = named.iter().flatten().copied().find(|name| is_ours(name));
    let shown = host.shown("NCCL_NET_PLUGIN");
    if named.is_some() && ours.is_none() {
        return Outcome::not_checked(format!("{shown} names another plugin"));
    }
    let libraries = nccls(host);
    let is_amd = libraries.iter().any(|nccl| nccl.name == "RCCL");
    let file = match (ours, is_amd) {
        (Some(name), _) if name != PLUGIN => name.to_owned(),
        (_, true) => format!("librccl-net-{PLUGIN}.so"),
        (_, false) => format!("libnccl-net-{PLUGIN}.so"),
    };
    let place = if file.contains('/') {
        let path = host.named(&file);
        path.is_file().then_some(path)
    } else {
        find(host, &file).into_iter().next()
    };
    let Some(place) = place else {
        let why = format!("{file} is not where the loader looks");
        if ours.is_none() {
            return Outcome::not_checked(why);
        }
        let searched = host.var("LD_LIBRARY_PATH").unwrap_or("it is not set");
        // A path is taken as it is.
        let search = (!file.contains('/')).then(|| {
            format!("export LD_LIBRARY_PATH=FOLDER:$LD_LIBRARY_PATH, with the folder of {file}, or")
        });
        let name = file.rsplit('/').next().unwrap_or(&file);
        return Outcome::Found(vec![
            Finding::problem("NCCL is told to load thalweg, but does not find it.")
                .evidence([shown, why, format!("LD_LIBRARY_PATH: {searched}")])
                .why("NCCL says so in one line of its log, and goes on with its own transports.")
                .fix(search)
                .fix([format!(
                    "name the file: export NCCL_NET_PLUGIN=/FOLDER/{name}"
                )]),
        ]);
    };
    let contents = scan(&place, |_| false);
    let label = display(host, &place);
    let mut findings = Vec::new();
    let tables = contents.tables;
    let tables_text = match (tables.first(), tables.last()) {
        (Some(first), Some(last)) if tables.len() == usize::from(last - first) + 1 => {
            format!("v{first} to v{last}")
        }
        _ => {
            let tables: Vec<String> = tables.iter().map(|table| format!("v{table}")).collect();
            tables.join(", ")
        }
    };
    let version = contents.thalweg;
    if tables.is_empty() {
        findings.push(
            Finding::problem("The plugin's file is none.")
                .evidence([format!("{label}: no symbol ncclNetPlugin_v...")])
                .why("NCCL finds nothing in it, and goes on with its own transports.")
                .fix(["install it anew: make install"]),
        );
    } else if let Some(version) = version
        .as_deref()
        .filter(|version| *version != env!("CARGO_PKG_VERSION"))
    {
        findings.push(
            Finding::warning("The plugin and this command are of different versions.")
                .evidence([
                    format!("{label}: {version}"),
                    format!("thalweg: {}", env!("CARGO_PKG_VERSION")),
                ])
                .why(
                    "What one of them measures the other may not show; all hosts of a job should \
                     have the same plugin.",
                )
                .fix(["install both anew: make install"]),
        );
    }
    for nccl in &libraries {
        let Some((major, minor, _)) = nccl.version else {
            continue;
        };
        let known = TABLES
            .iter()
            .rev()
            .find(|(since, ..)| *since <= (major, minor));
        let Some((_, oldest, newest)) = known else {
            continue;
        };
        if !tables.is_empty()
            && !tables
                .iter()
                .any(|table| (oldest..=newest).contains(&table))
        {
            findings.push(
                Finding::problem(format!(
                    "The plugin has no table that {} {major}.{minor} knows.",
                    nccl.name
                ))
                .evidence([
                    format!("{label}: {tables_text}"),
                    format!("{}: v{oldest} to v{newest}", nccl.path),
                ])
                .why("NCCL finds nothing in it, and goes on with its own transports.")
                .fix(["install the plugin of this version: make install"]),
            );
        }
        let lists = host
            .var("NCCL_NET_PLUGIN")
            .is_some_and(|list| list.contains(','));
        if lists && (major, minor) < (2, 27) {
            findings.push(
                Finding::problem(format!(
                    "{} {major}.{minor} takes a list of plugins for one name.",
                    nccl.name
                ))
                .evidence([shown.clone(), nccl.path.clone()])
                .why(
                    "Lists are known since 2.27; before, no file of that name is found, and \
                         no plugin loaded.",
                )
                .fix(["export NCCL_NET_PLUGIN=thalweg"]),
            );
        }
    }
    let version = version.unwrap_or_else(|| "of unknown version".to_owned());
    Outcome::of(
        findings,
        format!("{label}: {version}, tables {tables_text}"),
    )
}

/// Each NCCL and RCCL that a job may load, each file once.
fn nccls(host: &Host) -> Vec<Nccl> {
    let mut seen = BTreeSet::new();
    let mut found = Vec::new();
    for (name, file, packaged) in LIBRARIES {
        let mut places = find(host, file);
        places.extend(python_packages(host).map(|folder| folder.join(packaged)));
        for place in places
            .into_iter()
            .filter_map(|place| fs::canonicalize(place).ok())
        {
            if place.is_file() && seen.insert(place.clone()) {
                let version = from_name(&place)
                    .or_else(|| scan(&place, |contents| contents.nccl.is_some()).nccl);
                let path = display(host, &place);
                found.push(Nccl {
                    path,
                    name,
                    version,
                });
            }
        }
    }
    found
}

/// Where a library is, in the order in which the loader looks.
fn find(host: &Host, file: &str) -> Vec<PathBuf> {
    let of_user = host
        .var("LD_LIBRARY_PATH")
        .unwrap_or_default()
        .split([':', ';']);
    let of_user = of_user
        .filter(|folder| !folder.is_empty())
        .map(|folder| host.named(folder).join(file));
    let mut places: Vec<PathBuf> = of_user.collect();
    let mut cache = Vec::new();
    if let Ok(opened) = File::open(host.path("etc/ld.so.cache")) {
        // What has been read when it fails is what there is.
        let _ = opened.take(CACHE_BYTES_MAX).read_to_end(&mut cache);
    }
    places.extend(cached(&cache, file).map(|path| host.named(&path)));
    places.extend(FOLDERS.iter().map(|folder| host.path(folder).join(file)));
    places.retain(|place| place.is_file());
    places
}

/// The folders of Python packages, of the environment that is active and of the host.
fn python_packages(host: &Host) -> impl Iterator<Item = PathBuf> {
    let active = ["VIRTUAL_ENV", "CONDA_PREFIX"]
        .into_iter()
        .filter_map(|name| host.var(name));
    let mut folders = Vec::new();
    for prefix in active.chain(["/usr/local", "/usr"]) {
        let lib = format!("{}/lib", prefix.trim_matches('/'));
        for python in host
            .names(&lib)
            .into_iter()
            .filter(|name| name.starts_with("python3"))
        {
            for packages in ["site-packages", "dist-packages"] {
                folders.push(host.path(&lib).join(&python).join(packages));
            }
        }
    }
    folders.into_iter()
}

/// A path as it is on the host.
fn display(host: &Host, place: &Path) -> String {
    let root = host.path("");
    let root = fs::canonicalize(&root).unwrap_or(root);
    let below = place
        .strip_prefix(&root)
        .or_else(|_| place.strip_prefix(host.path("")));
    below.map_or(place.display().to_string(), |path| {
        format!("/{}", path.display())
    })
}

/// `libnccl.so.2.30.7`
fn from_name(path: &Path) -> Option<Version> {
    version(path.file_name()?.to_str()?.split_once(".so.")?.1)
}

/// `2.30.7`, and whatever comes after.
fn version(text: &str) -> Option<Version> {
    let mut numbers = text.split(|c: char| !c.is_ascii_digit());
    let mut number = || numbers.next()?.parse().ok();
    Some((number()?, number()?, number()?))
}

/// What is found in a library.
#[derive(Debug, Default, PartialEq, Eq)]
struct Contents {
    nccl: Option<Version>,
    thalweg: Option<String>,
    tables: BTreeSet<u8>,
}

/// Looks through a library for the texts by which it says what it is. NCCL has such a text for
/// `strings`; the plugin the beginning of its first line in the log. `is_enough` says when to stop.
fn scan(path: &Path, is_enough: fn(&Contents) -> bool) -> Contents {
    let mut contents = Contents::default();
    let Ok(file) = File::open(path) else {
        return contents;
    };
    let mut file = file.take(LIBRARY_BYTES_MAX);
    let mut piece = Vec::new();
    // A piece begins with the end of the one before: no text is cut in two.
    while let Ok(1..) = file.by_ref().take(PIECE_BYTES).read_to_end(&mut piece) {
        contents.look(&piece);
        if is_enough(&contents) {
            break;
        }
        piece.drain(..piece.len().saturating_sub(TEXT_BYTES_MAX));
    }
    contents
}

const PIECE_BYTES: u64 = 1 << 20;
/// All that is looked for is shorter.
const TEXT_BYTES_MAX: usize = 64;

impl Contents {
    fn look(&mut self, bytes: &[u8]) {
        // "NCCL version 2.30.7+cuda13.0", "RCCL version : 2.27.7-HEAD:..."
        for text in after(bytes, b"CCL version ") {
            let number = text.trim_start_matches([':', ' ']);
            self.nccl = self.nccl.or_else(|| version(number));
        }
        for text in after(bytes, b"\0ncclNetPlugin_v") {
            self.tables.extend(text.parse::<u8>().ok());
        }
        for text in after(bytes, b"thalweg ") {
            let number = text
                .split(':')
                .next()
                .filter(|number| version(number).is_some());
            if self.thalweg.is_none() && text.contains(':') {
                self.thalweg = number.map(str::to_owned);
            }
        }
    }
}

/// The text after each place where these bytes are, up to its end or as far as it can be read.
fn after<'a>(bytes: &'a [u8], mark: &'a [u8]) -> impl Iterator<Item = String> + 'a {
    let mut rest = bytes;
    std::iter::from_fn(move || {
        loop {
            // By the first byte first: that is fast.
            let start = rest.iter().position(|byte| *byte == mark[0])?;
            rest = &rest[start..];
            if let Some(text) = rest.strip_prefix(mark) {
                // The end of one text may be the beginning of the next.
                rest = text;
                let is_text = |byte: &&u8| byte.is_ascii_graphic() || **byte == b' ';
                let text = text.iter().take(TEXT_BYTES_MAX).take_while(is_text);
                return Some(text.map(|byte| char::from(*byte)).collect());
            }
            rest = &rest[1..];
        }
    })
}

/// Where the loader's list has a library. The format is that of glibc since 2.2 (`dl-cache.h`,
/// `struct cache_file_new`); an older list may stand before it.
fn cached(cache: &[u8], file: &str) -> impl Iterator<Item = String> {
    const MAGIC: &[u8] = b"glibc-ld.so.cache1.1";
    const HEADER_BYTES: usize = 48;
    const ENTRY_BYTES: usize = 24;
    let start = cache
        .windows(MAGIC.len())
        .position(|window| window == MAGIC);
    let cache = start.map_or(&[][..], |start| &cache[start..]);
    let number = |at: usize| {
        let bytes = cache.get(at..)?.first_chunk()?;
        Some(u32::from_ne_bytes(*bytes) as usize)
    };
    let text = |at: usize| {
        let text = cache.get(at..)?;
        let end = text.iter().position(|byte| *byte == 0)?;
        std::str::from_utf8(&text[..end]).ok()
    };
    let entries = cache
        .get(HEADER_BYTES..)
        .map_or(0, |entries| entries.len() / ENTRY_BYTES);
    let count = number(MAGIC.len()).unwrap_or(0).min(entries);
    let mut found = Vec::new();
    for at in (0..count).map(|entry| HEADER_BYTES + entry * ENTRY_BYTES) {
        let (Some(key), Some(value)) = (number(at + 4), number(at + 8)) else {
            break;
        };
        if text(key) == Some(file) {
            found.extend(text(value).map(str::to_owned));
        }
    }
    found.into_iter()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// A list as `ldconfig` writes it.
    fn cache(libraries: &[(&str, &str)]) -> Vec<u8> {
        let mut texts = Vec::new();
        let mut entries = Vec::new();
        let start = 48 + 24 * libraries.len();
        for (key, value) in libraries {
            entries.extend(0x0303_u32.to_ne_bytes());
            for text in [key, value] {
                entries.extend(u32::try_from(start + texts.len()).unwrap().to_ne_bytes());
                texts.extend(text.as_bytes());
                texts.push(0);
            }
            entries.extend([0; 12]);
        }
        let mut cache = b"glibc-ld.so.cache1.1".to_vec();
        cache.extend(u32::try_from(libraries.len()).unwrap().to_ne_bytes());
        cache.resize(48, 0);
        [cache, entries, texts].concat()
    }

    #[test]
    fn the_loaders_list_is_read() {
        let cache = cache(&[
            ("libnccl.so.2", "/usr/lib/libnccl.so.2"),
            ("libc.so.6", "/lib/libc.so.6"),
            ("libnccl.so.2", "/opt/libnccl.so.2"),
        ]);
        let found: Vec<String> = cached(&cache, "libnccl.so.2").collect();
        assert_eq!(found, ["/usr/lib/libnccl.so.2", "/opt/libnccl.so.2"]);
        assert_eq!(cached(&cache, "libnccl.so").count(), 0);
        // Behind an older list.
        let behind = [b"ld.so-1.7.0\0\0\0\0\0".to_vec(), cache].concat();
        assert_eq!(
            cached(&behind, "libc.so.6").collect::<Vec<_>>(),
            ["/lib/libc.so.6"]
        );
    }

    #[test]
    fn this_hosts_list_has_the_c_library() {
        if let Ok(cache) = fs::read("/etc/ld.so.cache") {
            assert!(cached(&cache, "libc.so.6").all(|path| path.starts_with('/')));
        }
    }

    #[test]
    fn libraries_say_what_they_are() {
        let mut contents = Contents::default();
        contents.look(b"..NCCL version 2.30.7+cuda13.0\0..");
        assert_eq!(contents.nccl, Some((2, 30, 7)));
        let mut contents = Contents::default();
        contents.look(b"\0ncclNetPlugin_v12\0ncclNetPlugin_v6\0ncclNetPlugin_vX\0NET/thalweg: \0thalweg 0.1.0: over");
        assert_eq!(contents.tables, BTreeSet::from([6, 12]));
        assert_eq!(contents.thalweg.as_deref(), Some("0.1.0"));
        assert_eq!(
            from_name(Path::new("/usr/lib/libnccl.so.2.18.3")),
            Some((2, 18, 3))
        );
        assert_eq!(from_name(Path::new("/usr/lib/libnccl.so.2")), None);
    }

    #[test]
    fn a_text_between_two_pieces_is_found() {
        let folder = std::env::temp_dir().join(format!("thalweg-library-{}", std::process::id()));
        let start = usize::try_from(PIECE_BYTES).unwrap() - 7;
        let mut library = vec![b'N'; start];
        library.extend(b"NCCL version 2.21.5+cuda12.4\0");
        fs::write(&folder, &library).unwrap();
        let contents = scan(&folder, |contents| contents.nccl.is_some());
        fs::remove_file(&folder).unwrap();
        assert_eq!(contents.nccl, Some((2, 21, 5)));
    }

    proptest! {
        #[test]
        fn any_list_is_read(bytes in prop::collection::vec(any::<u8>(), 0..200), count in any::<u32>()) {
            let mut list = b"glibc-ld.so.cache1.1".to_vec();
            list.extend(count.to_ne_bytes());
            list.extend(bytes);
            let _ = cached(&list, "libnccl.so.2").count();
        }

        #[test]
        fn any_library_is_looked_through(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            Contents::default().look(&bytes);
        }
    }
}
