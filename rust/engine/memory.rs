//! Where the planes of a directory are kept while it is open, and caches.

use crate::error::ModelError;
use intact_core::storage::{self, AlignedBytes, Storage};
use std::fs::File;
use std::path::Path;
use std::sync::Arc;

/// A file in memory, either mapped or copied to memory of large pages.
enum Memory {
    Mapped(memmap2::Mmap),
    #[cfg(target_os = "linux")]
    Copied(memmap2::MmapMut),
}

impl Storage for Memory {
    fn bytes(&self) -> &[u8] {
        match self {
            Self::Mapped(map) => map,
            #[cfg(target_os = "linux")]
            Self::Copied(memory) => memory,
        }
    }
}

/// The bytes of the file `path`: a copy in large pages where the system has those and memory to spare, as weights
/// stream from them half as fast again as from a map; else a map.
pub(crate) fn load(path: &Path) -> Result<Arc<dyn Storage>, ModelError> {
    let io = |action| move |source| ModelError::Io { path: path.to_owned(), action, source };
    let file = File::open(path).map_err(io("open"))?;
    if file.metadata().map_err(io("read"))?.len() == 0 {
        return Ok(Arc::new(AlignedBytes::default()));
    }
    #[cfg(target_os = "linux")]
    if let Some(memory) = linux::copy(&file) {
        return Ok(Arc::new(Memory::Copied(memory)));
    }
    // SAFETY: the map is read-only; a file that another program changes meanwhile is outside what can be guarded.
    let map = unsafe { memmap2::Mmap::map(&file) }.map_err(io("map"))?;
    Ok(Arc::new(Memory::Mapped(map)))
}

/// Memory for caches: large pages where the system has them, else the heap's.
pub(crate) fn allocate(len: usize) -> Option<Box<dyn storage::Block>> {
    #[cfg(target_os = "linux")]
    if let Some(memory) = linux::large(len) {
        return Some(Box::new(memory));
    }
    storage::heap(len)
}

#[cfg(target_os = "linux")]
mod linux {
    use intact_core::storage::Block;
    use std::fs::File;
    use std::io::Read;

    /// The file in large pages, or `None` where that cannot be.
    pub(super) fn copy(mut file: &File) -> Option<memmap2::MmapMut> {
        let len = file.metadata().ok()?.len();
        if len > available()? / 2 {
            return None;
        }
        let mut memory = memmap2::MmapMut::map_anon(usize::try_from(len).ok()?).ok()?;
        memory.advise(memmap2::Advice::HugePage).ok()?;
        file.read_exact(&mut memory).ok()?;
        Some(memory)
    }

    /// Zero bytes that are in memory once they are written.
    pub(super) struct Large(memmap2::MmapMut);

    impl Block for Large {
        fn bytes(&mut self) -> &mut [u8] {
            &mut self.0
        }
    }

    /// `None` where that cannot be.
    pub(super) fn large(len: usize) -> Option<Large> {
        let memory = memmap2::MmapMut::map_anon(len).ok()?;
        memory.advise(memmap2::Advice::HugePage).ok()?;
        Some(Large(memory))
    }

    /// Bytes that can be had without others losing theirs, within what the process's control group allows.
    fn available() -> Option<u64> {
        let number = |path| std::fs::read_to_string(path).ok()?.trim().parse::<u64>().ok();
        let group = number("/sys/fs/cgroup/memory.max")
            .map_or(u64::MAX, |most| most.saturating_sub(number("/sys/fs/cgroup/memory.current").unwrap_or(0)));
        let all = std::fs::read_to_string("/proc/meminfo").ok()?;
        let line = all.lines().find_map(|line| line.strip_prefix("MemAvailable:"))?;
        let kib: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
        Some(group.min(kib.saturating_mul(1024)))
    }
}
