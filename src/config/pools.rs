//! `[[pool]]` tables of the TOML file: several pools, each with its tasks, cells and limits.
//!
//! ```toml
//! [[pool]]
//! name = "video"
//! task_types = ["render"]        # none: every type that no other pool names
//! min = 0
//! max = 4
//! [[pool.cell]]                  # best first
//! gpu = "NVIDIA GeForce RTX 4090"
//! region = "EU-NO-1"
//! image = "render:7"
//! usd_per_hour = 0.59
//! ```

use std::path::Path;

use serde::Deserialize;

use crate::error::BadInput;
use crate::fleet::cell::{Cell, Offer};
use crate::fleet::pool::{POOLS_MAX, Pool};

/// A pool as it is written.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Written {
    name: String,
    #[serde(default)]
    task_types: Vec<String>,
    #[serde(default)]
    cell: Vec<WrittenCell>,
    min: Option<u32>,
    max: Option<u32>,
    idle_buffer: Option<u32>,
    spawns_per_cycle: Option<u32>,
}

/// A cell as it is written.
#[derive(Deserialize)]
#[serde(default, deny_unknown_fields)]
#[derive(Default)]
struct WrittenCell {
    gpu: String,
    region: String,
    image: String,
    usd_per_hour: Option<f64>,
}

/// Reads the tables.
///
/// # Errors
/// The first thing that is wrong, with the pool's name.
pub(super) fn read(path: &Path, value: toml::Value) -> Result<Vec<Pool>, BadInput> {
    let bad = |detail: String| {
        BadInput::new(
            format!("{}: {detail}", path.display()),
            "a [[pool]] has name, task_types, min, max, idle_buffer, spawns_per_cycle and [[pool.cell]]s of gpu, region, image, usd_per_hour",
        )
    };
    let written: Vec<Written> =
        value.try_into().map_err(|error: toml::de::Error| bad(format!("[[pool]] {}", error.message())))?;
    let pools: Vec<Pool> = written.into_iter().map(Pool::from).collect();
    check(&pools).map_err(bad)?;
    Ok(pools)
}

impl From<Written> for Pool {
    fn from(written: Written) -> Pool {
        let or = Pool::default();
        let offer = |cell: WrittenCell| Offer {
            cell: Some(Cell { gpu: cell.gpu, region: cell.region, image: cell.image }),
            usd_per_hour: cell.usd_per_hour,
        };
        Pool {
            name: written.name,
            task_types: written.task_types,
            cells: written.cell.into_iter().map(offer).collect(),
            min_workers: written.min.unwrap_or(or.min_workers),
            max_workers: written.max.unwrap_or(or.max_workers),
            idle_buffer: written.idle_buffer.unwrap_or(or.idle_buffer),
            spawns_per_cycle_max: written.spawns_per_cycle.unwrap_or(or.spawns_per_cycle_max),
        }
    }
}

fn check(pools: &[Pool]) -> Result<(), String> {
    if pools.is_empty() || pools.len() > POOLS_MAX {
        return Err(format!("{} pools, expected 1 to {POOLS_MAX}", pools.len()));
    }
    for (index, pool) in pools.iter().enumerate() {
        let (name, before) = (&pool.name, &pools[..index]);
        let fits = !name.is_empty()
            && name.len() <= 40
            && name.chars().all(|c| c.is_ascii_alphanumeric() || "-_".contains(c));
        if !fits {
            return Err(format!("pool name {name:?}, expected letters, digits, - and _, at most 40"));
        }
        if before.iter().any(|other| other.name == *name) {
            return Err(format!("pool {name} stands there twice"));
        }
        if pool.min_workers > pool.max_workers && pool.max_workers > 0 {
            return Err(format!("pool {name}: min {} is above max {}", pool.min_workers, pool.max_workers));
        }
        if pool.task_types.is_empty() && before.iter().any(|other| other.task_types.is_empty()) {
            return Err(format!(
                "pool {name} names no task_types, and neither does another: one may take the rest"
            ));
        }
        if let Some(task_type) = pool.task_types.iter().find(|task_type| task_type.is_empty()) {
            return Err(format!("pool {name}: task type {task_type:?} has no name"));
        }
        let taken = |task_type: &&String| before.iter().any(|other| other.task_types.contains(task_type));
        if let Some(task_type) = pool.task_types.iter().find(taken) {
            return Err(format!("pool {name}: task type {task_type} belongs to another pool already"));
        }
        if pool.cells.iter().any(|offer| offer.usd_per_hour.is_some_and(|usd| !usd.is_finite() || usd < 0.0)) {
            return Err(format!("pool {name}: usd_per_hour must not be negative"));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pools(text: &str) -> Result<Vec<Pool>, String> {
        let mut table = text.parse::<toml::Table>().unwrap();
        read(Path::new("d.toml"), table.remove("pool").unwrap()).map_err(|error| error.to_string())
    }

    #[test]
    fn pools_have_tasks_cells_and_limits() {
        let pools = pools(
            "[[pool]]\nname = \"video\"\ntask_types = [\"render\"]\nmax = 4\n[[pool.cell]]\ngpu = \"A40\"\n\
             region = \"US-1\"\nusd_per_hour = 0.4\n[[pool]]\nname = \"rest\"\nmin = 1",
        )
        .unwrap();
        assert_eq!((pools[0].max_workers, pools[0].min_workers, pools[1].min_workers), (4, 0, 1));
        assert_eq!(pools[0].cells[0].name().unwrap(), "A40/US-1");
        assert_eq!(pools[0].cells[0].usd_per_hour, Some(0.4));
        assert!(pools[1].cells.is_empty() && pools[1].task_types.is_empty());
    }

    #[test]
    fn a_contradiction_names_the_pool() {
        let check = |text: &str, expected: &str| {
            let error = pools(text).unwrap_err();
            assert!(error.contains(expected), "{error}");
        };
        check("[[pool]]\nname = \"a b\"", "pool name \"a b\"");
        check("[[pool]]\nname = \"a\"\nmin = 3\nmax = 2", "pool a: min 3 is above max 2");
        check("[[pool]]\nname = \"a\"\n[[pool]]\nname = \"a\"\ntask_types = [\"x\"]", "pool a stands there twice");
        check("[[pool]]\nname = \"a\"\n[[pool]]\nname = \"b\"", "one may take the rest");
        let twice = "[[pool]]\nname = \"a\"\ntask_types = [\"x\"]\n[[pool]]\nname = \"b\"\ntask_types = [\"x\"]";
        check(twice, "task type x belongs to another pool");
        check("[[pool]]\nname = \"a\"\nmaximum = 2", "unknown field `maximum`");
    }
}
