//! The committed header is what the source says, and C and C++ compilers accept it without a
//! warning. `UPDATE_HEADER=1` writes it anew.

use std::path::{Path, PathBuf};
use std::process::Command;

const SOURCE: &str = env!("CARGO_MANIFEST_DIR");

fn include() -> PathBuf {
    Path::new(SOURCE).join("../include")
}

/// A folder for what a test makes; its name is the test's.
fn scratch(name: &str) -> PathBuf {
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join(name);
    std::fs::create_dir_all(&folder).expect("a folder for the test");
    folder
}

fn run(command: &mut Command) -> String {
    let output = command
        .output()
        .unwrap_or_else(|error| panic!("{command:?}: {error}"));
    assert!(
        output.status.success(),
        "{command:?}: {}\n{}",
        output.status,
        String::from_utf8_lossy(&output.stderr)
    );
    String::from_utf8(output.stdout).expect("text")
}

#[test]
fn the_header_is_what_the_source_says() {
    let config = cbindgen::Config::from_file(Path::new(SOURCE).join("cbindgen.toml"))
        .expect("the generator's settings");
    let mut generated = Vec::new();
    cbindgen::Builder::new()
        .with_config(config)
        .with_src(Path::new(SOURCE).join("src/lib.rs"))
        .generate()
        .expect("the header")
        .write(&mut generated);
    let generated = String::from_utf8(generated).expect("text");
    let path = include().join("thalweg.h");
    if std::env::var_os("UPDATE_HEADER").is_some() {
        std::fs::write(&path, &generated).expect("the header is written");
    }
    let committed = std::fs::read_to_string(&path).unwrap_or_default();
    assert!(
        generated == committed,
        "include/thalweg.h is out of date: run this test with UPDATE_HEADER=1\n{generated}"
    );
}

/// Builds the shared library, which Cargo doesn't do for a test, where the test itself was built.
fn build_library() -> PathBuf {
    let test = std::env::current_exe().expect("the test's own path");
    // target/<profile>/deps/<test>
    let folder = test.ancestors().nth(2).expect("the profile's folder");
    let profile = match folder.file_name().and_then(|name| name.to_str()) {
        Some("debug") | None => "dev",
        Some(name) => name,
    };
    run(Command::new(env!("CARGO"))
        .args([
            "build",
            "--quiet",
            "--offline",
            "--package",
            "thalweg-ffi",
            "--profile",
            profile,
        ])
        .arg("--target-dir")
        .arg(folder.parent().expect("the target folder"))
        .current_dir(SOURCE));
    folder.join("libthalweg.so")
}

/// Uses the header's macros and its function; prints the version that the library has.
const PROGRAM: &str = r#"
#include <stdio.h>
#include <thalweg.h>
int main(void) {
    printf("%d.%d.%d %s\n", THALWEG_VERSION_MAJOR, THALWEG_VERSION_MINOR, THALWEG_VERSION_PATCH,
           thalweg_version());
    return 0;
}
"#;

#[test]
fn compilers_accept_it_and_the_library_is_of_its_version() {
    let library = build_library();
    let folder = scratch("header");
    for (compiler, standard, file) in [("gcc", "c11", "main.c"), ("g++", "c++17", "main.cpp")] {
        let source = folder.join(file);
        std::fs::write(&source, PROGRAM).expect("the program is written");
        let program = folder.join(standard);
        run(Command::new(compiler)
            .arg(format!("-std={standard}"))
            .args(["-Wall", "-Wextra", "-Werror", "-pedantic", "-I"])
            .arg(include())
            .arg(&source)
            .arg(&library)
            .arg("-o")
            .arg(&program));
        let folder = library.parent().expect("a folder");
        let said = run(Command::new(&program).env("LD_LIBRARY_PATH", folder));
        let version = env!("CARGO_PKG_VERSION");
        assert_eq!(said, format!("{version} {version}\n"), "{compiler}");
    }
}
