//! The benchmarks: what decides whether somebody should use holdfast, measured next to what they use
//! today, in one run on one machine.
//!
//! Each [`Part`] measures one question, and says what it has found as a [`Section`] of
//! `docs/benchmarks.md`. Documents are made from the [`Results`] alone, so that the same JSON gives
//! the same document.

pub mod cluster;
mod detect;
pub mod document;
mod first;
mod growth;
mod machine;
pub mod plot;
pub mod quick;
mod recorded;
mod scale;
mod schedule;
pub mod stats;
mod steady;
mod stolen;
mod table;
mod target;

use std::{collections::BTreeMap, path::PathBuf};

use anyhow::{Context as _, Result};
use serde::{Deserialize, Serialize, de::DeserializeOwned};
use serde_json::Value;

use self::stolen::Ticks;
pub use self::{
    machine::Machine,
    plot::{Axis, Plot, Scale, Series},
    quick::{Better, QuickRatio},
};

/// How to measure.
#[derive(Clone, Debug)]
pub struct Options {
    /// The `holdfast` binary.
    pub agent: PathBuf,
    /// How often each case is measured; each part has a number of its own otherwise.
    pub runs: Option<u32>,
}

/// One question, measured.
pub trait Measure: Serialize + DeserializeOwned {
    /// Measures; progress goes to standard error.
    ///
    /// # Errors
    ///
    /// If it cannot be measured.
    fn measure(options: &Options) -> Result<Self>;

    /// What it has found, for people.
    fn section(&self) -> Section;

    /// Its ratios that a release must not lose, in a fraction of a minute.
    ///
    /// # Errors
    ///
    /// If they cannot be measured.
    fn quick(options: &Options) -> Result<Vec<QuickRatio>>;
}

/// What a part says about itself in the document.
#[derive(Clone, Debug)]
pub struct Section {
    /// Its heading.
    pub title: String,
    /// Markdown, with tables of the numbers; a person can read it as it is.
    pub text: String,
    /// Drawn below the text.
    pub plots: Vec<Plot>,
}

/// A part of the benchmarks.
#[derive(Clone, Copy, Debug)]
pub struct Part {
    /// What it is called on the command line and in the JSON.
    pub name: &'static str,
    /// What it measures.
    pub what: &'static str,
    measure: fn(&Options) -> Result<Value>,
    section: fn(&Value) -> Result<Section>,
    quick: fn(&Options) -> Result<Vec<QuickRatio>>,
}

/// All parts, in the order of the document: a line for each.
const PARTS: &[Part] = &[
    Part::of::<first::First>("first", "time to first connection, next to what others do"),
    Part::of::<detect::Detect>("detect", "from readiness to the agent's knowing, and its price"),
    Part::of::<steady::Steady>(
        "steady",
        "what an open gate costs a pod, and the programs in the kernel",
    ),
    Part::of::<scale::Scale>("scale", "what many pods and many waiting sockets take on one node"),
    Part::of::<cluster::Numbers>("cluster", "what each node costs the API server"),
];

/// All parts, in the order of the document.
pub fn parts() -> impl Iterator<Item = &'static Part> {
    PARTS.iter()
}

/// What one run has found: the JSON of which documents are made.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub struct Results {
    /// Where.
    pub machine: Machine,
    /// Each part's own numbers.
    pub parts: BTreeMap<String, Value>,
    /// What the hypervisor kept meanwhile of the processor time that was wanted, in percent.
    #[serde(default)]
    pub stolen: BTreeMap<String, f64>,
}

// === impl Options ===

impl Options {
    /// How often to measure a case that is measured so often unless it is said otherwise.
    #[must_use]
    pub fn runs_or(&self, usual: u32) -> u32 {
        self.runs.unwrap_or(usual)
    }
}

// === impl Part ===

impl Part {
    /// The part that `M` measures.
    #[must_use]
    pub const fn of<M: Measure>(name: &'static str, what: &'static str) -> Self {
        Self {
            name,
            what,
            measure: |options| Ok(serde_json::to_value(M::measure(options)?)?),
            section: |numbers| Ok(M::deserialize(numbers)?.section()),
            quick: M::quick,
        }
    }

    /// Measures it.
    ///
    /// # Errors
    ///
    /// If it cannot be measured.
    pub fn measure(&self, options: &Options) -> Result<Value> {
        (self.measure)(options).with_context(|| format!("measure {:?}", self.name))
    }

    /// What `numbers`, which it has measured some time, say.
    ///
    /// # Errors
    ///
    /// If they have another form than this version's.
    pub fn section(&self, numbers: &Value) -> Result<Section> {
        (self.section)(numbers)
            .with_context(|| format!("the numbers of {:?}; measure them again", self.name))
    }

    /// Measures its ratios that a release must not lose.
    ///
    /// # Errors
    ///
    /// If they cannot be measured.
    pub fn quick(&self, options: &Options) -> Result<Vec<QuickRatio>> {
        (self.quick)(options).with_context(|| format!("measure {:?}", self.name))
    }
}

// === impl Results ===

impl Results {
    /// Of this machine and checkout, of no part yet.
    ///
    /// # Errors
    ///
    /// If the machine does not tell about itself.
    pub fn new() -> Result<Self> {
        let (parts, stolen) = (BTreeMap::new(), BTreeMap::new());
        Ok(Self { machine: Machine::this()?, parts, stolen })
    }

    /// Measures a part, and keeps what it has found.
    ///
    /// # Errors
    ///
    /// If it cannot be measured; what was kept before is kept.
    pub fn measure(&mut self, part: &Part, options: &Options) -> Result<()> {
        let before = Ticks::now()?;
        self.parts.insert(part.name.to_owned(), part.measure(options)?);
        let stolen = Ticks::now()?.stolen_percent_since(before);
        self.stolen.insert(part.name.to_owned(), stolen);
        Ok(())
    }

    /// What the parts that were run have found, in the order of the document.
    ///
    /// # Errors
    ///
    /// If the numbers have another form than this version's.
    pub fn sections(&self) -> Result<Vec<(&'static Part, Section)>> {
        parts()
            .filter_map(|part| Some((part, self.parts.get(part.name)?)))
            .map(|(part, numbers)| Ok((part, part.section(numbers)?)))
            .collect()
    }
}
