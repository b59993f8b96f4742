//! A Connection was changed, or one of its Secrets: the next connect uses what it says now.

use super::Engine;
use crate::{
    connection::{postgres, redis},
    worker::{lane::Order, plan::Plan, resolve::Reached},
};
use std::sync::Arc;

impl Engine {
    /// Open sessions go on, unless they lead elsewhere: a password may be changed at the server after its Secret.
    pub(super) fn reached_as(&mut self, connection: &str, reached: Reached) {
        match reached {
            Reached::Postgres(settings) => {
                self.reach_source(connection, &settings);
                self.reach_destination(connection, &settings);
            }
            Reached::Redis(settings) => self.reach_queue(connection, &settings),
        }
    }

    fn reach_source(&mut self, connection: &str, settings: &postgres::Settings) {
        if self.source.connection != connection {
            return;
        }
        let moved = self.source.settings.leads_elsewhere(settings);
        self.source.settings = settings.clone();
        if moved {
            self.rewind();
        }
    }

    fn reach_destination(&mut self, connection: &str, settings: &postgres::Settings) {
        self.replan(|plan| {
            let concerned = plan.destination == connection && plan.destination_settings != *settings;
            concerned.then(|| Plan {
                destination_settings: settings.clone(),
                ..plan.clone()
            })
        });
        if let Some(seating) = self.lanes.get(connection) {
            seating.lane.order(Order::Reach(Box::new(settings.clone())));
        }
    }

    fn reach_queue(&mut self, connection: &str, settings: &redis::Settings) {
        self.replan(|plan| {
            let concerned = plan.queue_connection == connection && plan.queue_settings != *settings;
            concerned.then(|| Plan {
                queue_settings: settings.clone(),
                ..plan.clone()
            })
        });
        let concerned = |map: &&crate::worker::map::Map| map.plan.queue_connection == connection;
        for map in self.maps.values().filter(concerned) {
            map.queue.reach(settings);
        }
    }

    fn replan(&mut self, change: impl Fn(&Plan) -> Option<Plan>) {
        for (id, plan) in &mut self.plans {
            let Some(changed) = change(plan) else { continue };
            *plan = Arc::new(changed);
            if let Some(map) = self.maps.get_mut(id) {
                map.plan = plan.clone();
                map.retry_at = None;
            }
        }
    }
}
