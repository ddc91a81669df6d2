//! The file as types. Unknown words are errors, so that no runner overlooks one.

use std::collections::BTreeMap;

use serde::Deserialize;
use serde_json::Value;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct File {
    pub(crate) version: u32,
    pub(crate) canonical: Vec<(String, String)>,
    pub(crate) fingerprints: Vec<FingerprintVector>,
    pub(crate) step_keys: Vec<StepKeyVector>,
    pub(crate) cases: Vec<Case>,
    pub(crate) handover: Vec<HandoverEntry>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct FingerprintVector {
    pub(crate) secret: String,
    pub(crate) json: String,
    pub(crate) hex: String,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct StepKeyVector {
    pub(crate) tenant: String,
    pub(crate) operation: String,
    pub(crate) key: String,
    pub(crate) step: String,
    pub(crate) step_key: String,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Case {
    pub(crate) name: String,
    pub(crate) mode: String,
    pub(crate) lease_ms: Option<u64>,
    pub(crate) execution_max_ms: Option<u64>,
    pub(crate) lost_leases_max: Option<u32>,
    pub(crate) operations: Vec<Op>,
}

#[derive(Deserialize)]
#[serde(tag = "op", rename_all = "snake_case", deny_unknown_fields)]
pub(crate) enum Op {
    Begin(Begin),
    Drop { of: String },
    Finish { of: String, ending: EndingData, expect: Expect },
    Silence { of: String },
    Step { of: String, name: String, result: Value, expect: Expect },
}

#[derive(Clone, Deserialize)]
pub(crate) struct Begin {
    #[serde(rename = "as")]
    pub(crate) name: Option<String>,
    pub(crate) key: String,
    #[serde(default)]
    pub(crate) raw_key: bool,
    pub(crate) payload: Value,
    pub(crate) mode: Option<String>,
    pub(crate) tenant: Option<String>,
    #[serde(default)]
    pub(crate) patiently: bool,
    pub(crate) expect: Expect,
}

#[derive(Clone, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum EndingData {
    Completed(Value),
    Hold(String),
    NotApplied,
    Refused(Value),
    Unknown(String),
}

#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Expect {
    Error(String, String),
    Fresh,
    NotApplied,
    Refusal(Value),
    Replay(Value),
    Run(Claimed),
    Stored,
    Unknown,
}

#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Claimed {
    pub(crate) attempts: u32,
    /// Left out where they do not matter.
    pub(crate) steps: Option<BTreeMap<String, Value>>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct HandoverEntry {
    pub(crate) key: String,
    pub(crate) mode: String,
    pub(crate) payload: Value,
    pub(crate) step: Option<StepData>,
    pub(crate) ending: EndingData,
    pub(crate) expect: Expect,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct StepData {
    pub(crate) name: String,
    pub(crate) result: Value,
}
