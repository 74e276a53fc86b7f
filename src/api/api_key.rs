//! `ApiKeyService`.

use tonic::{Request, Response, Status, async_trait};

use super::{
    Api,
    call::{answer, open},
    convert::api_key as convert,
};
use crate::pb::{self, api_key_service_server::ApiKeyService};

#[async_trait]
impl ApiKeyService for Api {
    async fn create_api_key(
        &self,
        request: Request<pb::CreateApiKeyRequest>,
    ) -> Result<Response<pb::CreateApiKeyResponse>, Status> {
        let call = open(request)?;
        answer(&call.caller, async {
            let (principal, settings) = convert::create(call.message)?;
            let (made, key) = self.app.create_api_key(&call.caller, principal, settings, None).await?;
            Ok(pb::CreateApiKeyResponse { api_key: Some(convert::api_key(made)), key })
        })
        .await
    }

    async fn get_api_key(
        &self,
        request: Request<pb::GetApiKeyRequest>,
    ) -> Result<Response<pb::GetApiKeyResponse>, Status> {
        let call = open(request)?;
        answer(&call.caller, async {
            let id = convert::get(call.message)?;
            Ok(pb::GetApiKeyResponse { api_key: Some(convert::api_key(self.app.get_api_key(&id).await?)) })
        })
        .await
    }

    async fn list_api_keys(
        &self,
        request: Request<pb::ListApiKeysRequest>,
    ) -> Result<Response<pb::ListApiKeysResponse>, Status> {
        let call = open(request)?;
        answer(&call.caller, async {
            let (limit, page_token, principal) = convert::list(call.message)?;
            let tokens = self.page_tokens.of("ListApiKeys", &[principal.as_deref().unwrap_or_default()]);
            let after = tokens.read(&page_token)?;
            let (keys, next) = self.app.list_api_keys(principal.as_deref(), after, limit).await?;
            let api_keys = keys.into_iter().map(convert::api_key).collect();
            Ok(pb::ListApiKeysResponse { api_keys, next_page_token: tokens.next(next.as_ref()) })
        })
        .await
    }

    async fn update_api_key(
        &self,
        request: Request<pb::UpdateApiKeyRequest>,
    ) -> Result<Response<pb::UpdateApiKeyResponse>, Status> {
        let call = open(request)?;
        answer(&call.caller, async {
            let convert::Update { id, patch, etag } = convert::update(call.message)?;
            let key = self.app.update_api_key(&call.caller, id, patch, etag).await?;
            Ok(pb::UpdateApiKeyResponse { api_key: Some(convert::api_key(key)) })
        })
        .await
    }

    async fn rotate_api_key(
        &self,
        request: Request<pb::RotateApiKeyRequest>,
    ) -> Result<Response<pb::RotateApiKeyResponse>, Status> {
        let call = open(request)?;
        answer(&call.caller, async {
            let (id, overlap, etag) = convert::rotate(call.message)?;
            let (rotated, key) = self.app.rotate_api_key(&call.caller, id, overlap, etag).await?;
            Ok(pb::RotateApiKeyResponse { api_key: Some(convert::api_key(rotated)), key })
        })
        .await
    }

    async fn revoke_api_key(
        &self,
        request: Request<pb::RevokeApiKeyRequest>,
    ) -> Result<Response<pb::RevokeApiKeyResponse>, Status> {
        let call = open(request)?;
        answer(&call.caller, async {
            let (id, etag) = convert::revoke(call.message)?;
            let key = self.app.revoke_api_key(&call.caller, id, etag).await?;
            Ok(pb::RevokeApiKeyResponse { api_key: Some(convert::api_key(key)) })
        })
        .await
    }
}
