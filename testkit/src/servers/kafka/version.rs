//! The versions of Apache Kafka that tests start.

use std::path::PathBuf;

use super::super::programs;
use super::{Error, Missing, jars};

/// A version of Apache Kafka.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum KafkaVersion {
    /// 3.9, the last of its kind: transactions of the first protocol, and groups of the new
    /// protocol (KIP-848) as a preview.
    V3_9,
    /// 4.3: transactions of the second protocol (KIP-890).
    V4_3,
}

impl KafkaVersion {
    /// What is not there to start a server of this version: Java, or, until its jars are fetched,
    /// Maven.
    #[must_use]
    pub fn missing(self) -> Option<Missing> {
        let has_jars = jars::are_here(self);
        match (java(), has_jars || programs::find("mvn").is_some()) {
            (Some(_), true) => None,
            (Some(_), false) => Some(Missing { program: "mvn", way: "apt-get install maven" }),
            (None, true) => {
                let way = "apt-get install default-jre-headless";
                Some(Missing { program: "java", way })
            }
            (None, false) => {
                let way = "apt-get install default-jre-headless maven";
                Some(Missing { program: "java", way })
            }
        }
    }

    /// Fetches its jars and makes them start fast, unless that is done. Every start does it when
    /// it has to; whoever calls this first chooses when it happens.
    ///
    /// # Errors
    ///
    /// When Maven cannot get them, or a server of this version does not start.
    pub fn fetch(self) -> Result<(), Error> {
        jars::java(self).map(drop)
    }

    /// The folder of its jars is called so.
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::V3_9 => "3.9",
            Self::V4_3 => "4.3",
        }
    }

    /// What Maven has to fetch.
    pub(super) fn pom(self) -> &'static str {
        match self {
            Self::V3_9 => include_str!("../../../kafka/pom-3.9.xml"),
            Self::V4_3 => include_str!("../../../kafka/pom-4.3.xml"),
        }
    }

    /// The settings of its logging, and what its JVM calls a file of those.
    pub(super) fn logging(self) -> (&'static str, &'static str) {
        match self {
            Self::V3_9 => {
                (include_str!("../../../kafka/log4j.properties"), "-Dlog4j.configuration=file:")
            }
            Self::V4_3 => {
                let option = "-Dlog4j2.configurationFile=";
                (include_str!("../../../kafka/log4j2.properties"), option)
            }
        }
    }

    /// The settings of `server.properties` that only this version needs.
    pub(super) fn settings(self) -> &'static [(&'static str, &'static str)] {
        match self {
            Self::V3_9 => &[("group.coordinator.rebalance.protocols", "classic,consumer")],
            Self::V4_3 => &[],
        }
    }
}

/// The program that runs Java's.
pub(super) fn java() -> Option<PathBuf> {
    let home = || PathBuf::from(std::env::var_os("JAVA_HOME")?).join("bin/java").into();
    programs::find("java").or_else(home).filter(|program| program.is_file())
}
