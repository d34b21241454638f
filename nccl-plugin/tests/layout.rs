//! Our structures against the debug information of NCCL's official binary, version 2.30.7
//! (package `nvidia-nccl-cu13`). What is compared, the facts in `abi`, is asserted at compile
//! time already; this asks the one who must know.

mod common;

use nccl_net_thalweg::abi::{
    CommAttr, CommConfig, Layout, NetAttr, NetDeviceHandle, v6, v7, v8, v9, v10, v11, v12,
};
use std::path::{Path, PathBuf};
use std::process::Command;

const LAYOUTS: &[Layout] = &[
    v6::Net::LAYOUT,
    v7::Net::LAYOUT,
    v8::Net::LAYOUT,
    v9::Net::LAYOUT,
    v10::Net::LAYOUT,
    v11::Net::LAYOUT,
    v12::Net::LAYOUT,
    v6::Properties::LAYOUT,
    v7::Properties::LAYOUT,
    v8::Properties::LAYOUT,
    v9::Properties::LAYOUT,
    v11::Properties::LAYOUT,
    v12::Properties::LAYOUT,
    v9::VDeviceProps::LAYOUT,
    v12::VDeviceProps::LAYOUT,
    NetDeviceHandle::LAYOUT,
    CommConfig::LAYOUT,
    CommAttr::LAYOUT,
    NetAttr::LAYOUT,
];

/// Where a later version has the same structure under a name of its own.
const SAME: &[(&str, Layout)] = &[
    ("ncclNetProperties_v10_t", v10::Properties::LAYOUT),
    ("ncclNetVDeviceProps_v10_t", v10::VDeviceProps::LAYOUT),
    ("ncclNetVDeviceProps_v11_t", v11::VDeviceProps::LAYOUT),
    ("ncclNetDeviceHandle_v12_t", NetDeviceHandle::LAYOUT),
    ("ncclNetCommConfig_v11_t", CommConfig::LAYOUT),
    ("ncclNetCommConfig_v12_t", CommConfig::LAYOUT),
    ("ncclNetCommAttr_v11_t", CommAttr::LAYOUT),
    ("ncclNetAttr_v11_t", NetAttr::LAYOUT),
];

#[test]
fn the_tables_have_the_published_sizes() {
    let sizes = |layouts: &[Layout]| layouts.iter().map(|l| l.bytes).collect::<Vec<_>>();
    assert_eq!(sizes(&LAYOUTS[..7]), [136, 152, 152, 160, 160, 176, 176]);
    assert_eq!(sizes(&LAYOUTS[7..13]), [48, 56, 64, 104, 112, 128]);
    let slots: Vec<_> = LAYOUTS[..7].iter().map(|l| l.fields.len()).collect();
    assert_eq!(slots, [17, 19, 19, 20, 20, 22, 22]);
}

#[test]
fn the_official_binary_agrees() {
    if !common::have("gdb") {
        return;
    }
    let Some(nccl) = nccl() else {
        println!("SKIPPED: set LAB_NCCL_LIB to NCCL's libnccl.so.2, version 2.30.7");
        return;
    };
    let all: Vec<(&str, Layout)> = LAYOUTS
        .iter()
        .map(|layout| (layout.c_name, *layout))
        .chain(SAME.iter().copied())
        .collect();
    // One run for all: the debugger takes seconds to read the file.
    let mut gdb = Command::new("gdb");
    gdb.args(["-nx", "-batch"]);
    for (name, _) in &all {
        gdb.arg("-ex").arg(format!("echo =={name}\\n"));
        gdb.arg("-ex").arg(format!("ptype /o {name}"));
    }
    let said = common::run(gdb.arg(nccl));
    let mut sections = said.split("==").skip(1);
    for (name, layout) in all {
        let section = sections
            .next()
            .unwrap_or_else(|| panic!("nothing about {name}:\n{said}"));
        let (title, text) = section.split_once('\n').unwrap_or((section, ""));
        assert_eq!(title, name);
        assert_eq!(fields(text), expected(&layout), "{name}:\n{text}");
        assert_eq!(total(text), Some(layout.bytes), "{name}:\n{text}");
    }
}

/// Name, offset and size of each field, out of lines such as
/// `/*     44      |       4 */    float latency;`.
fn fields(text: &str) -> Vec<(String, usize, usize)> {
    let mut depth = 0;
    let mut found = Vec::new();
    for line in text.lines() {
        let starts = line.contains('{');
        if line.trim_start().starts_with('}') || line.contains("*/      } ") {
            depth -= 1;
        }
        if let Some((numbers, declaration)) = line
            .trim_start()
            .strip_prefix("/*")
            .and_then(|rest| rest.split_once("*/"))
            && depth == 1
            && !starts
            && let Some((offset, size)) = numbers.split_once('|')
            && let (Ok(offset), Ok(size)) = (offset.trim().parse(), size.trim().parse())
        {
            found.push((field_name(declaration), offset, size));
        }
        if starts {
            depth += 1;
        }
    }
    found
}

/// The name in a declaration: a plain one, an array's or a pointer to a function's.
fn field_name(declaration: &str) -> String {
    let declaration = declaration.trim().trim_end_matches(';');
    let name = match declaration.split_once("(*") {
        Some((_, rest)) => rest.split(')').next(),
        None => declaration
            .split('[')
            .next()
            .and_then(|text| text.split([' ', '*']).next_back()),
    };
    name.unwrap_or_default().to_owned()
}

fn total(text: &str) -> Option<usize> {
    let (_, rest) = text.split_once("total size (bytes):")?;
    rest.split("*/").next()?.trim().parse().ok()
}

fn expected(layout: &Layout) -> Vec<(String, usize, usize)> {
    layout
        .fields
        .iter()
        .map(|&(name, offset, size)| (camel_case(name), offset, size))
        .collect()
}

/// NCCL's spelling of a field's name.
fn camel_case(name: &str) -> String {
    let mut out = String::new();
    let mut upper = false;
    for c in name.chars() {
        match c {
            '_' => upper = true,
            c if upper => {
                out.push(c.to_ascii_uppercase());
                upper = false;
            }
            c => out.push(c),
        }
    }
    out
}

fn nccl() -> Option<PathBuf> {
    if let Some(path) = std::env::var_os("LAB_NCCL_LIB") {
        return Some(path.into());
    }
    // `lab/nccl.sh` puts it there.
    find(
        &Path::new(env!("CARGO_MANIFEST_DIR")).join("../target/nccl"),
        6,
    )
}

fn find(folder: &Path, depth: u32) -> Option<PathBuf> {
    let mut folders = Vec::new();
    for entry in std::fs::read_dir(folder).ok()?.flatten() {
        let path = entry.path();
        if path.file_name().is_some_and(|name| name == "libnccl.so.2") {
            return Some(path);
        }
        if path.is_dir() {
            folders.push(path);
        }
    }
    let depth = depth.checked_sub(1)?;
    folders.iter().find_map(|folder| find(folder, depth))
}

#[test]
fn the_debuggers_words_are_understood() {
    let text = "\
/* offset      |    size */  type = struct x {
/*      0      |       8 */    const char *name;
/*      8      |       8 */    ncclResult_t (*regMr)(void *, void *, size_t, int, void **);
/*     16      |      16 */    int devs[4];
/*     32      |      16 */    struct y {
/*     32      |       4 */        int inner;

                                   /* total size (bytes):   16 */
                               } outer;
/* XXX  4-byte hole      */
/*     52      |       4 */    int32_t last;

                               /* total size (bytes):   56 */
                             }
";
    let names: Vec<_> = fields(text).into_iter().map(|(name, ..)| name).collect();
    assert_eq!(names, ["name", "regMr", "devs", "last"]);
}
