//! How a shipper whose thread hangs is made again: the same settings give another exporter, and
//! the folders that are still to be delivered give other feeds, which fence the old ones.

use std::io;
use std::sync::{Arc, Mutex, PoisonError};

use super::exporter::Exporter;
use super::feed::FolderFeed;
use super::shipper::{self, Feed, Origin};
use super::spool::Folder;
use super::wiring::{Fuse, MakeAgain};
use super::{Config, all_exporters};

/// The origin of one slot's shipper.
pub(super) struct Again {
    pub(super) slot: &'static str,
    pub(super) config: Config,
    pub(super) make: MakeAgain,
    pub(super) own: Folder,
    /// Folders of dead processes that are not empty yet.
    pub(super) adopted: Arc<Mutex<Vec<Folder>>>,
    pub(super) fuse: Fuse,
}

impl Origin for Again {
    fn exporter(&self) -> io::Result<Box<dyn Exporter>> {
        if let Some(exporter) = self.make.as_ref().and_then(|make| make(self.slot)) {
            return Ok(exporter);
        }
        let all = all_exporters(&self.config, Vec::new(), shipper::Config::default()).map_err(io::Error::other)?;
        let mine = all.into_iter().find(|(slot, _, _)| *slot == self.slot);
        mine.map(|(_, exporter, _)| exporter).ok_or_else(|| io::ErrorKind::NotFound.into())
    }

    fn feeds(&self) -> io::Result<Vec<Box<dyn Feed>>> {
        let adopted = self.adopted.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let folders = adopted.iter().map(|folder| (folder, true)).chain([(&self.own, false)]);
        let mut feeds: Vec<Box<dyn Feed>> = Vec::new();
        for (folder, is_adopted) in folders {
            let feed = FolderFeed::open(folder, self.slot, is_adopted, self.fuse.clone());
            feeds.push(Box::new(feed.map_err(io::Error::other)?));
        }
        Ok(feeds)
    }
}
