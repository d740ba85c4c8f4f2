//! A cell: one kind of machine at one place with one image, the smallest thing that fails alone.
//!
//! A GPU type that is broken in one region works in another, and an image that crashes does so on
//! every machine; failures and refusals are therefore counted a cell at a time. A fleet that names
//! no cells has exactly one, which has no name.

use serde::{Deserialize, Serialize};

/// One kind of machine at one place with one image. Its parts are the provider's words; an empty
/// part means that the provider chooses.
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Cell {
    /// GPU type, such as `NVIDIA GeForce RTX 4090`.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub gpu: String,
    /// Region or data centre, such as `EU-NO-1`.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub region: String,
    /// Image or template, and whatever else is started with it.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub image: String,
}

impl Cell {
    /// Whether both are the same machine at the same place, whatever image it runs.
    pub fn is_same_place(&self, other: &Cell) -> bool {
        self.gpu == other.gpu && self.region == other.region
    }
}

impl std::fmt::Display for Cell {
    /// `RTX4090/EU-NO-1`: the maker's words and blanks left out; the image only where nothing else
    /// tells the cell apart.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let gpu = self.gpu.trim_start_matches("NVIDIA ").trim_start_matches("GeForce ").replace(' ', "");
        let parts: Vec<&str> =
            [gpu.as_str(), self.region.as_str()].into_iter().filter(|part| !part.is_empty()).collect();
        match (parts.is_empty(), self.image.is_empty()) {
            (false, _) => f.write_str(&parts.join("/")),
            (true, false) => f.write_str(&self.image),
            (true, true) => f.write_str("any"),
        }
    }
}

/// A cell that a pool may use, and what a machine of it costs.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Offer {
    /// The cell; null where the fleet names none.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cell: Option<Cell>,
    /// Dollars an hour; null = not known, counted as nothing.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub usd_per_hour: Option<f64>,
}

impl Offer {
    /// The cell's name for people; none where there is only the one without a name.
    pub fn name(&self) -> Option<String> {
        self.cell.as_ref().map(ToString::to_string)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cell_is_named_by_what_tells_it_apart() {
        let check = |gpu: &str, region: &str, image: &str, expected: &str| {
            let cell = Cell { gpu: gpu.into(), region: region.into(), image: image.into() };
            assert_eq!(cell.to_string(), expected);
        };
        check("NVIDIA GeForce RTX 4090", "EU-NO-1", "render:7", "RTX4090/EU-NO-1");
        check("NVIDIA A40", "", "", "A40");
        check("", "", "render:7", "render:7");
        check("", "", "", "any");
    }
}
