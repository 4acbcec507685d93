//! The operations that look at the state of storages and mend it.

use fastpersist_protocol::error::{ErrorCode, WireError};
use fastpersist_protocol::request::Op;

use super::dispatch::{Answer, Ask, Dispatcher};
use super::pass::Pass;

impl Dispatcher<'_> {
    pub(super) async fn health(
        &mut self,
        _id: Option<&str>,
        ask: Ask<'_>,
        _op: &Op<'_>,
        pass: &mut Pass<'_>,
        out: &mut Vec<u8>,
    ) -> Answer<()> {
        self.allowed(ask)?;
        pass.finish(out).await;
        Err(WireError::new(ErrorCode::UnknownOp, "this daemon does not know the operation"))
    }
}
