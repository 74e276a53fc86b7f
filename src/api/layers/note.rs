//! Hands over what the audit is to know of a call that was refused.

use tonic::{Code, Status};
use tonic_types::StatusExt as _;

use crate::{
    app::audit_note::{NoteKind, Notes},
    context::Caller,
};

/// Notes a refusal for lack of rights or of a good credential; any other end of a call is none of the audit's business.
/// The layers see how a call begins; a stream that ends with such a refusal says so by itself.
pub fn ended(notes: &Notes, caller: &Caller, status: &Status) {
    let kind = match status.code() {
        Code::PermissionDenied => NoteKind::Refused,
        Code::Unauthenticated => NoteKind::Unauthenticated,
        _ => return,
    };
    let info = status.get_details_error_info();
    let reason = info.as_ref().map_or("", |info| info.reason.as_str());
    let metadata = |key| info.as_ref().and_then(|info| info.metadata.get(key)).map_or("", String::as_str);
    let resource = status.get_details_resource_info().map(|resource| resource.resource_name).unwrap_or_default();
    let resource =
        [resource.as_str(), metadata("resource"), metadata("project")].into_iter().find(|name| !name.is_empty());
    notes.take(kind, caller, resource.unwrap_or_default(), reason);
}
