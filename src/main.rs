//! dogwatch's command line.

fn main() {}
