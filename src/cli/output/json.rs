//! Proto3 JSON by reflection: the same descriptors the server reflects, so both spell everything alike.

use std::sync::LazyLock;

use anyhow::Context;
use prost_reflect::{DescriptorPool, DynamicMessage};
use serde::Serialize;

use crate::pb::DESCRIPTORS;

static POOL: LazyLock<Result<DescriptorPool, String>> =
    LazyLock::new(|| DescriptorPool::decode(DESCRIPTORS).map_err(|error| error.to_string()));

/// A message that serialises as proto3 JSON. `proto` is its full name.
pub fn to_json<M: prost::Message>(proto: &str, message: &M) -> anyhow::Result<DynamicMessage> {
    let pool = POOL.as_ref().map_err(|error| anyhow::anyhow!("the descriptors in this binary are damaged: {error}"))?;
    let descriptor =
        pool.get_message_by_name(proto).with_context(|| format!("the descriptors in this binary lack {proto}"))?;
    let mut dynamic = DynamicMessage::new(descriptor);
    dynamic.transcode_from(message).context("a message does not fit its descriptor")?;
    Ok(dynamic)
}

/// Indented, for people and for `jq`.
pub fn pretty<T: Serialize>(value: &T) -> anyhow::Result<String> {
    Ok(serde_json::to_string_pretty(value)?)
}

/// On one line.
pub fn line<T: Serialize>(value: &T) -> anyhow::Result<String> {
    Ok(serde_json::to_string(value)?)
}

/// As a tree.
pub fn value<T: Serialize>(value: &T) -> anyhow::Result<serde_json::Value> {
    Ok(serde_json::to_value(value)?)
}
