//! One case, operation by operation.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use semel::{
    Ending, Error, ErrorKind, Executed, FingerprintKey, Guard, Key, Outcome, Settings, Store,
    Tenant, Verdict,
};
use semel_tasks::{Attempt, Begun, Decision, Heart, TaskGuard};
use serde_json::Value;

use crate::data::{Begin, Case, Claimed, EndingData, Expect, HandoverEntry, Op};

/// A store and the secret that all programs on it share.
pub(crate) struct Bound {
    pub(crate) store: Arc<dyn Store>,
    pub(crate) secret: FingerprintKey,
}

pub(crate) struct Run<'a> {
    bound: &'a Bound,
    name: &'a str,
    mode: &'a str,
    settings: Settings,
    operations: &'a [Op],
    entry: Option<&'a HandoverEntry>,
    prefix: String,
    attempts: HashMap<String, Attempt>,
    heart: Heart,
}

impl<'a> Run<'a> {
    pub(crate) fn new(bound: &'a Bound, case: &'a Case, prefix: &str) -> Self {
        let mut settings = Settings::default();
        if let Some(lease_ms) = case.lease_ms {
            settings.lease = Duration::from_millis(lease_ms);
            settings.store_patience = settings.lease / 2;
        }
        if let Some(execution_max_ms) = case.execution_max_ms {
            settings.execution_max = Duration::from_millis(execution_max_ms);
        }
        settings.lost_leases_max = case.lost_leases_max.unwrap_or(settings.lost_leases_max);
        Self { settings, operations: &case.operations, ..Self::over(bound, &case.name, &case.mode) }
            .prefixed(prefix)
    }

    pub(crate) fn handover(bound: &'a Bound, entry: &'a HandoverEntry) -> Self {
        Self { entry: Some(entry), ..Self::over(bound, &entry.key, &entry.mode) }
    }

    fn over(bound: &'a Bound, name: &'a str, mode: &'a str) -> Self {
        Self {
            bound,
            name,
            mode,
            settings: Settings::default(),
            operations: &[],
            entry: None,
            prefix: String::new(),
            attempts: HashMap::new(),
            heart: Heart::new(),
        }
    }

    fn prefixed(mut self, prefix: &str) -> Self {
        prefix.clone_into(&mut self.prefix);
        self
    }

    pub(crate) async fn all(mut self) {
        for (number, op) in self.operations.iter().enumerate() {
            let (seen, expected) = match op {
                Op::Begin(begin) => (self.begin(begin).await, &begin.expect),
                Op::Drop { of } => {
                    self.attempts.remove(of).unwrap();
                    continue;
                }
                Op::Silence { of } => {
                    self.attempts[of].lease_lost().await;
                    continue;
                }
                Op::Step { of, name, result, expect } => {
                    (self.step(of, name, result).await, expect)
                }
                Op::Finish { of, ending, expect } => (self.finish(of, ending).await, expect),
            };
            self.check(number, seen, expected);
        }
    }

    pub(crate) async fn write(mut self) {
        let entry = self.entry.unwrap();
        let begin = Self::begin_of(entry, Some("a"));
        assert!(matches!(self.begin(&begin).await, Expect::Run(_)), "{} is taken", self.name);
        if let Some(step) = &entry.step {
            assert_eq!(self.step("a", &step.name, &step.result).await, Expect::Stored);
        }
        self.finish("a", &entry.ending).await;
    }

    pub(crate) async fn read(mut self) {
        let entry = self.entry.unwrap();
        let seen = self.begin(&Self::begin_of(entry, Some("a"))).await;
        self.check(0, seen, &entry.expect);
        if self.attempts.contains_key("a") {
            self.finish("a", &EndingData::Completed(Value::Null)).await;
        }
    }

    fn begin_of(entry: &HandoverEntry, name: Option<&str>) -> Begin {
        Begin {
            name: name.map(str::to_owned),
            key: entry.key.clone(),
            raw_key: true,
            payload: entry.payload.clone(),
            mode: None,
            tenant: None,
            patiently: false,
            expect: entry.expect.clone(),
        }
    }

    fn check(&self, number: usize, mut seen: Expect, expected: &Expect) {
        if let (Expect::Run(seen), Expect::Run(Claimed { steps: None, .. })) = (&mut seen, expected)
        {
            seen.steps = None;
        }
        assert_eq!(&seen, expected, "{}: operation {number}", self.name);
    }

    fn tasks(&self, mode: Option<&str>) -> TaskGuard {
        let guard = Guard::builder(self.bound.store.clone()).operation("conformance").unwrap();
        let effect = mode.unwrap_or(self.mode).parse().unwrap();
        let guard = guard.effect(effect).settings(self.settings.clone()).build().unwrap();
        TaskGuard::new(guard, self.bound.secret.clone()).with_heart(self.heart.clone())
    }

    async fn begin(&mut self, begin: &Begin) -> Expect {
        let tasks = self.tasks(begin.mode.as_deref());
        let tenant =
            begin.tenant.as_deref().map_or(Tenant::single(), |it| Tenant::new(it).unwrap());
        let prefix = if begin.raw_key { "" } else { &*self.prefix };
        let key = match Key::parse(&format!("{prefix}{}", begin.key)) {
            Ok(key) => key,
            Err(error) => return failed(&error),
        };
        let fingerprint = semel_tasks::fingerprint(tasks.secret(), &begin.payload).unwrap();
        let begun = loop {
            match tasks.begin(&tenant, &key, fingerprint).await {
                Err(busy) if begin.patiently && busy.kind() == ErrorKind::InFlight => {}
                begun => break begun,
            }
        };
        match begun {
            Err(error) => failed(&error),
            Ok(Begun::Replay { outcome, .. }) => replayed(&outcome),
            Ok(Begun::Run(attempt)) => {
                let claimed = Claimed {
                    attempts: attempt.attempts(),
                    steps: Some(self.steps_of(&attempt).await),
                };
                self.attempts.insert(begin.name.clone().expect("`as` names it"), attempt);
                Expect::Run(claimed)
            }
        }
    }

    /// What the attempt shows of the steps that the store has.
    async fn steps_of(&self, attempt: &Attempt) -> BTreeMap<String, Value> {
        let record = self.bound.store.get(attempt.id()).await.unwrap().unwrap();
        let shown =
            |name: &str| serde_json::from_slice(&attempt.step_result(name).unwrap()).unwrap();
        record.steps.iter().map(|step| (step.name.clone(), shown(&step.name))).collect()
    }

    async fn step(&self, of: &str, name: &str, result: &Value) -> Expect {
        let result = Bytes::from(serde_json::to_vec(result).unwrap());
        match self.attempts[of].store_step(name, result).await {
            Ok(()) => Expect::Stored,
            Err(error) => failed(&error),
        }
    }

    async fn finish(&mut self, of: &str, ending: &EndingData) -> Expect {
        let completed = |verdict, value| Ending::Completed {
            outcome: Outcome::json(verdict, value).unwrap(),
            live: (),
        };
        let ending = match ending {
            EndingData::Completed(value) => completed(Verdict::Succeeded, value),
            EndingData::Refused(value) => completed(Verdict::Refused, value),
            EndingData::Hold(detail) => Ending::Hold { detail: detail.clone(), live: () },
            EndingData::NotApplied => Ending::NotApplied { live: () },
            EndingData::Unknown(detail) => Ending::Unknown { detail: detail.clone(), live: () },
        };
        match self.attempts.remove(of).unwrap().finish(ending).await {
            Ok(Executed::Fresh { .. }) => Expect::Fresh,
            Ok(Executed::NotApplied { .. }) => Expect::NotApplied,
            Ok(Executed::Unknown { .. }) => Expect::Unknown,
            Ok(Executed::Replayed { outcome, .. }) => replayed(&outcome),
            Err(error) => failed(&error),
        }
    }
}

fn replayed(outcome: &Outcome) -> Expect {
    let value = outcome.to_json().unwrap();
    match outcome.verdict {
        Verdict::Refused => Expect::Refusal(value),
        Verdict::Succeeded => Expect::Replay(value),
    }
}

fn failed(error: &Error) -> Expect {
    Expect::Error(error.kind().code().to_owned(), Decision::of(error).name().to_owned())
}
