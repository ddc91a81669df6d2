//! Remembers what librdkafka complains about, because its errors say only that time was over.

use std::sync::{Arc, Mutex, PoisonError};

use rdkafka::ClientContext;
use rdkafka::config::RDKafkaLogLevel;
use rdkafka::error::{KafkaError, RDKafkaErrorCode as Code};
use rdkafka::statistics::Statistics;

use super::super::context::{write_error, write_log};

/// The context of a client whose complaints somebody wants to hear.
#[derive(Clone, Debug, Default)]
pub(super) struct Witness(Arc<Mutex<Heard>>);

#[derive(Clone, Debug, Default)]
struct Heard {
    reason: Option<String>,
    is_hopeless: bool,
}

impl Witness {
    /// The last complaint that says more than that all is lost.
    pub(super) fn reason(&self) -> Option<String> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).reason.clone()
    }

    /// Whether every broker is down or turns us away.
    pub(super) fn is_hopeless(&self) -> bool {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).is_hopeless
    }
}

impl ClientContext for Witness {
    fn log(&self, level: RDKafkaLogLevel, facility: &str, message: &str) {
        write_log(level, facility, message);
    }

    fn stats(&self, _: Statistics) {}

    fn stats_raw(&self, _: &[u8]) {}

    fn error(&self, error: KafkaError, reason: &str) {
        write_error(&error, reason);
        let code = error.rdkafka_error_code();
        let mut heard = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if code == Some(Code::AllBrokersDown) {
            heard.is_hopeless = true;
            return;
        }
        let turned_away = [Code::Authentication, Code::SaslAuthenticationFailed, Code::SSL];
        heard.is_hopeless |= code.is_some_and(|code| turned_away.contains(&code));
        heard.reason = Some(reason.to_owned());
    }
}

impl rdkafka::consumer::ConsumerContext for Witness {}
