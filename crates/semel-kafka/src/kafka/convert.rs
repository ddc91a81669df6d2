//! Between the door's types and those of librdkafka.

use std::collections::HashMap;
use std::sync::Arc;

use bytes::Bytes;
use rdkafka::message::{BorrowedMessage, Header as NativeHeader, Headers, OwnedHeaders};
use rdkafka::{Message, Offset, TopicPartitionList};
use semel::Timestamp;

use crate::log::{Header, LogError, LogErrorKind, Position, Record, TopicPartition};

const NAME_MAX: usize = 249;

/// Refuses what is no name of a topic; librdkafka would panic or take it for a pattern.
pub(super) fn check_topic(name: &str) -> Result<(), LogError> {
    let is_legal = |byte: u8| byte.is_ascii_alphanumeric() || b"._-".contains(&byte);
    if (1..=NAME_MAX).contains(&name.len()) && name.bytes().all(is_legal) {
        return Ok(());
    }
    let message = format!(
        "{name:?} is no name of a topic: it has 1 to {NAME_MAX} of the characters a-z, A-Z, 0-9, \
         dot, underscore and hyphen"
    );
    Err(LogError::new(LogErrorKind::Invalid, message))
}

pub(super) fn list<'a>(
    partitions: impl IntoIterator<Item = (&'a TopicPartition, Offset)>,
) -> Result<TopicPartitionList, LogError> {
    let mut list = TopicPartitionList::new();
    for (partition, offset) in partitions {
        check_topic(&partition.topic)?;
        list.add_partition_offset(&partition.topic, partition.partition, offset).map_err(|_| {
            let message = format!("{offset:?} is no position in {partition}; it starts at 0");
            LogError::new(LogErrorKind::Invalid, message)
        })?;
    }
    Ok(list)
}

pub(super) fn bare<'a>(
    partitions: impl IntoIterator<Item = &'a TopicPartition>,
) -> Result<TopicPartitionList, LogError> {
    list(partitions.into_iter().map(|partition| (partition, Offset::Invalid)))
}

pub(super) fn positions(positions: &[Position]) -> Result<TopicPartitionList, LogError> {
    list(positions.iter().map(|it| (&it.partition, Offset::Offset(it.next))))
}

pub(super) fn partitions(list: &TopicPartitionList) -> Vec<TopicPartition> {
    let elements = list.elements();
    elements.iter().map(|it| TopicPartition::new(it.topic(), it.partition())).collect()
}

/// The offsets of `partitions`, in their order.
pub(super) fn offsets(
    list: &TopicPartitionList,
    partitions: &[TopicPartition],
) -> Result<Vec<Option<i64>>, LogError> {
    let offset = |partition: &TopicPartition| {
        let Some(element) = list.find_partition(&partition.topic, partition.partition) else {
            return Ok(None);
        };
        let what = format!("tell the committed position of {partition}");
        element.error().map_err(|error| super::fault::plain(&what, error))?;
        Ok(match element.offset() {
            Offset::Offset(offset) => Some(offset),
            _ => None,
        })
    };
    partitions.iter().map(offset).collect()
}

/// Topics as they were met, so that a record costs no copy of its topic's name.
#[derive(Debug, Default)]
pub(super) struct Topics(HashMap<String, Arc<str>>);

impl Topics {
    fn get(&mut self, name: &str) -> Arc<str> {
        if let Some(known) = self.0.get(name) {
            return Arc::clone(known);
        }
        let new: Arc<str> = name.into();
        self.0.insert(name.to_owned(), Arc::clone(&new));
        new
    }
}

pub(super) fn record(message: &BorrowedMessage<'_>, topics: &mut Topics) -> Record {
    let headers = message.headers().map(|headers| {
        let owned = |header: NativeHeader<'_, &[u8]>| Header {
            name: header.key.into(),
            value: header.value.map(Bytes::copy_from_slice),
        };
        headers.iter().map(owned).collect()
    });
    let millis = message.timestamp().to_millis().and_then(|millis| u64::try_from(millis).ok());
    Record {
        partition: TopicPartition {
            topic: topics.get(message.topic()),
            partition: message.partition(),
        },
        offset: message.offset(),
        key: message.key().map(Bytes::copy_from_slice),
        value: message.payload().map(Bytes::copy_from_slice),
        headers: headers.unwrap_or_default(),
        timestamp: millis.map(Timestamp::from_millis),
    }
}

pub(super) fn native_headers(headers: &[Header]) -> Result<Option<OwnedHeaders>, LogError> {
    if headers.is_empty() {
        return Ok(None);
    }
    let mut native = OwnedHeaders::new_with_capacity(headers.len());
    for header in headers {
        if header.name.contains('\0') {
            let message = format!("the header name {:?} has a zero byte in it", header.name);
            return Err(LogError::new(LogErrorKind::Invalid, message));
        }
        let value = header.value.as_deref();
        native = native.insert(NativeHeader { key: &header.name, value });
    }
    Ok(Some(native))
}

/// About how much memory a record takes.
pub(super) fn weight(record: &Record) -> usize {
    let length = |bytes: &Option<Bytes>| bytes.as_ref().map_or(0, Bytes::len);
    let headers = record.headers.iter().map(|it| it.name.len() + length(&it.value));
    size_of::<Record>() + length(&record.key) + length(&record.value) + headers.sum::<usize>()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pattern_and_a_zero_byte_are_no_topic() {
        assert!(check_topic("orders.v2_new-1").is_ok());
        for name in ["", "^orders", "a\0b", "a b", &"x".repeat(NAME_MAX + 1)] {
            let error = check_topic(name).unwrap_err();
            assert_eq!(error.kind(), LogErrorKind::Invalid);
        }
    }

    #[test]
    fn a_position_before_the_beginning_is_refused() {
        let position = Position { partition: TopicPartition::new("a", 0), next: -3 };
        assert!(positions(&[position]).is_err());
    }

    #[test]
    fn a_header_without_a_value_stays_one() {
        let name: Arc<str> = "a".into();
        let headers = [Header { name, value: None }, Header::new("b", "c")];
        let native = native_headers(&headers).unwrap().unwrap();
        assert_eq!(native.get(0).value, None);
        assert_eq!(native.get(1).value, Some(&b"c"[..]));
    }
}
