//! `bulk_action`: a plan is a fixed set, counted before anything happens; it runs in portions, and what has moved on
//! since is skipped, never forced.
use super::Core;
use crate::effect::{Fact, Reply, Step};
use crate::input::{Now, Stored, Target};
use crate::row::Caller;
use reeve_protocol::api::Plan;
use reeve_protocol::{Code, Problem};

impl Core {
    /// A plan exists.
    pub(super) fn put_plan(
        &mut self,
        now: Now,
        caller: &Caller,
        mut plan: Plan,
        ids: Vec<String>,
        reason: Option<String>,
        step: &mut Step,
    ) -> Reply {
        plan.id = self.next_plan;
        self.next_plan += 1;
        plan.seq = self.seq();
        self.events.note(now.wall, "plan", &plan.id.to_string(), "made", &caller.actor());
        step.facts.push(Fact::PlanAdded {
            plan: Box::new(plan.clone()),
            ids,
            reason,
            owner_uid: caller.uid,
            owner: caller.name.clone(),
        });
        Reply::Plan(Box::new(plan))
    }

    /// One portion of a plan.
    pub(super) fn bulk_action(
        &mut self,
        now: Now,
        caller: &Caller,
        action: &str,
        jobs: Vec<(Target, Stored)>,
        step: &mut Step,
    ) -> Reply {
        let results = jobs
            .into_iter()
            .map(|(target, stored)| {
                match action {
                    "cancel" => self.cancel_job(now, caller, target, None, &stored, step),
                    "restart" => self.restart_job(now, caller, target, false, &stored, step),
                    "hold" => self.hold_job(now, caller, target, true, &stored),
                    "release" => self.hold_job(now, caller, target, false, &stored),
                    other => Err(Problem::new(
                        Code::NotYet,
                        format!("the bulk action {other:?} comes with a later version"),
                    )),
                }
                .map(|changed| changed.tasks.unwrap_or(1))
            })
            .collect();
        Reply::Bulk(results)
    }

    /// A plan has been run.
    pub(super) fn plan_done(
        &mut self,
        now: Now,
        caller: &Caller,
        plan: u64,
        result: String,
        step: &mut Step,
    ) -> Reply {
        let seq = self.events.note(now.wall, "plan", &plan.to_string(), "ran", &caller.actor());
        step.facts.push(Fact::PlanRan(plan, result));
        Reply::Done(seq)
    }
}
