//! The least a gRPC call can cost: tonic on both sides and nothing between.

use std::{net::Ipv4Addr, time::Duration};

use clap::Args;
use tokio::net::TcpListener;
use tonic::{
    Request, Response, Status,
    transport::{Channel, Endpoint, Server, server::TcpIncoming},
};

use crate::tell::keep_in_flight;

#[allow(clippy::all, reason = "generated code")]
mod pb {
    tonic::include_proto!("tasktower.bench.v1");
}
use pb::{
    EchoRequest, EchoResponse,
    echo_service_client::EchoServiceClient,
    echo_service_server::{EchoService, EchoServiceServer},
};

const INPUT_BYTES: usize = 100;

struct Echo;

#[tonic::async_trait]
impl EchoService for Echo {
    async fn echo(&self, request: Request<EchoRequest>) -> Result<Response<EchoResponse>, Status> {
        let EchoRequest { id, r#type, input, number } = request.into_inner();
        Ok(Response::new(EchoResponse { id, r#type, input, number }))
    }
}

/// Serves until it is killed.
pub async fn serve() -> anyhow::Result<()> {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await?;
    println!("listening grpc={}", listener.local_addr()?);
    // Without TCP_NODELAY small answers wait for delayed acknowledgements, and the limit would not be one.
    let incoming = TcpIncoming::from(listener).with_nodelay(Some(true));
    Server::builder().add_service(EchoServiceServer::new(Echo)).serve_with_incoming(incoming).await?;
    Ok(())
}

#[derive(Args)]
pub struct Call {
    #[arg(long)]
    endpoint: String,
    #[arg(long, default_value_t = 3)]
    seconds: u64,
    #[arg(long, default_value_t = 64)]
    inflight: usize,
    #[arg(long, default_value_t = 4)]
    connections: usize,
}

pub async fn call(arguments: Call) -> anyhow::Result<()> {
    let endpoint = Endpoint::from_shared(arguments.endpoint)?.tcp_nodelay(true);
    let mut clients: Vec<EchoServiceClient<Channel>> = Vec::new();
    for _ in 0..arguments.connections.max(1) {
        clients.push(EchoServiceClient::new(endpoint.connect().await?));
    }
    let request = EchoRequest {
        id: "0198c0de-0000-7000-8000-000000000001".to_owned(),
        r#type: "bench".to_owned(),
        input: vec![b'x'; INPUT_BYTES],
        number: 1,
    };
    keep_in_flight(arguments.inflight, Duration::from_secs(arguments.seconds), move |lane| {
        let (mut client, request) = (clients[lane % clients.len()].clone(), request.clone());
        async move {
            client.echo(request).await?;
            Ok(())
        }
    })
    .await
}
