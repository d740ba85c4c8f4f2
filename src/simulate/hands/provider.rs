//! The provider in an orchestrator's hands.

use async_trait::async_trait;

use super::super::bugs::Bug;
use super::{Hands, Side};
use crate::fleet::ids::PodId;
use crate::provider::{Listing, PodRequest, Provider, ProviderError};

#[async_trait]
impl Provider for Hands {
    fn name(&self) -> &'static str {
        "simulated"
    }

    async fn create(&self, request: &PodRequest) -> Result<PodId, ProviderError> {
        self.at("create", Side::Before).await;
        self.sim().asked_for(request, &self.world.store);
        let made = self.sim().create(request);
        if made.wait > 0 {
            self.wait(made.wait).await;
        }
        self.at("create", Side::After).await;
        let mut sim = self.sim();
        match made.answer {
            Ok(id) => {
                sim.answered(&id, &self.world.store);
                Ok(id)
            }
            Err(ProviderError::Ambiguous(_)) if sim.has(Bug::LostIsRefused) => {
                Err(ProviderError::Capacity("no answer: no machine".into()))
            }
            Err(refusal) => Err(refusal),
        }
    }

    async fn list(&self) -> Result<Listing, ProviderError> {
        self.at("list", Side::Before).await;
        let listing = self.sim().list(self.process);
        self.at("list", Side::After).await;
        listing
    }

    async fn drain(&self, pod: &PodId) -> Result<(), ProviderError> {
        self.at("drain", Side::Before).await;
        self.sim().drain(pod);
        self.at("drain", Side::After).await;
        Ok(())
    }

    async fn terminate(&self, pod: &PodId) -> Result<(), ProviderError> {
        self.at("terminate", Side::Before).await;
        let answer = self.sim().terminate(pod);
        self.at("terminate", Side::After).await;
        answer
    }

    async fn last_lines(&self, _pod: &PodId) -> Result<Vec<String>, ProviderError> {
        self.at("last_lines", Side::Before).await;
        Ok(Vec::new())
    }
}
