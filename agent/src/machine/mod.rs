//! What this machine is and has: cpus and memory as far as they may be used, operating system, load. Reads only files of
//! /proc and /sys; decides nothing.
pub(crate) mod cgroup;
pub(crate) mod cpu;
pub(crate) mod memory;
pub(crate) mod os;
pub(crate) mod sample;
