//! Link options of the plugin's shared library.

fn main() {
    println!("cargo:rerun-if-changed=build.rs");
    // NCCL closes the library when its last communicator is gone, while threads of the host that
    // once ran our code still have destructors in it to call at their end: it must stay mapped.
    println!("cargo:rustc-cdylib-link-arg=-Wl,-z,nodelete");
    // Cargo allows no hyphen in a library's name; the loader asks for this one.
    println!("cargo:rustc-cdylib-link-arg=-Wl,-soname,libnccl-net-thalweg.so");
}
