//! `dogwatch replay FILE...`: judges snapshots in files.

use super::args::ReplayArgs;
use crate::error::Exit;
use crate::explain::replay;

pub(super) fn main(args: &ReplayArgs) -> Exit {
    let (mut out, mut err) = (std::io::stdout().lock(), std::io::stderr().lock());
    replay::run(&args.files, args.output.json, &mut out, &mut err)
}
