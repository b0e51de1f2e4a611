//! `reeve queue dead` and `reeve queue route`.
use super::context::Context;
use super::delivery::{body, message};
use super::error::{Error, note};
use super::queue::path;
use super::table::Table;
use super::{submit, values};
use hyper::Method;
use reeve_protocol::api::{
    ExplainRequest, Explained, MessageView, ReturnRequest, ReturnedReply, Route, RoutedReply, RoutedRequest,
    Routes,
};
use reeve_protocol::text::Clean;
use reeve_protocol::units::show_count;

/// List what was given up, or return it to its queue.
#[derive(Debug, clap::Args)]
pub struct Dead {
    /// The queue
    #[arg(value_name = "QUEUE")]
    pub queue: String,
    /// At most this many are listed
    #[arg(long, value_name = "N", default_value_t = 100)]
    pub limit: u32,
    /// They can be received again: these, or all
    #[arg(long = "return", value_name = "ID", num_args = 0..)]
    pub give_back: Option<Vec<String>>,
    /// Only count
    #[arg(long, requires = "give_back")]
    pub dry_run: bool,
}

/// Rules that say which queues a message goes to by its labels.
#[derive(Debug, clap::Args)]
pub struct RouteCommand {
    /// What to do; without it, the rules are listed
    #[command(subcommand)]
    pub action: Option<Action>,
    /// Say which rule decides about these labels, and why not those before it
    #[arg(long, value_name = "K=V", value_parser = values::pair, num_args = 0..)]
    pub explain: Option<Vec<(String, String)>>,
}

/// What the answer to `dead` holds.
#[derive(Debug, serde::Serialize, serde::Deserialize)]
struct Messages {
    items: Vec<MessageView>,
}

/// What can be done with rules.
#[derive(Debug, clap::Subcommand)]
pub enum Action {
    /// Make a rule, or change it where it stands
    Set(SetRoute),
    /// Remove a rule
    Rm {
        /// Its name
        name: String,
    },
    /// Put a message into the queues that its labels say. Prints queue and id of each
    Publish(PublishRouted),
}

/// Put a message where its labels say.
#[derive(Debug, clap::Args)]
pub struct PublishRouted {
    /// JSON, or else text
    #[arg(value_name = "BODY|@FILE|-")]
    pub body: String,
    /// What the message has; may be repeated
    #[arg(long, value_name = "K=V", value_parser = values::pair)]
    pub label: Vec<(String, String)>,
    /// The same token publishes the same once
    #[arg(long, value_name = "TOKEN")]
    pub key: Option<String>,
}

/// Make a rule, or change it.
#[derive(Debug, clap::Args)]
pub struct SetRoute {
    /// Its name
    pub name: String,
    /// What a message must have; may be repeated. None: every message
    #[arg(long, value_name = "K=V", value_parser = values::pair)]
    pub label: Vec<(String, String)>,
    /// Where it goes; several queues get a message each
    #[arg(long, value_name = "QUEUE,..", value_delimiter = ',', required = true)]
    pub to: Vec<String>,
    /// Stands before this one; else last
    #[arg(long, value_name = "NAME")]
    pub before: Option<String>,
}

/// Runs `reeve queue dead`.
pub async fn dead(dead: Dead, context: &mut Context) -> Result<(), Error> {
    let Some(ids) = dead.give_back else {
        let path = path(&dead.queue, &format!("/dead?limit={}", dead.limit));
        let Some(list) = context.get::<Messages>(&path).await? else { return Ok(()) };
        if list.items.is_empty() {
            note("nothing was given up there");
        }
        let mut table = Table::new(&["ID", ">DELIVERIES", "CAUSE", "BODY"]);
        for message in &list.items {
            let cause = Clean::line(message.dead.as_deref().unwrap_or("")).to_string();
            let text = Clean::line(&body(message)).to_string();
            table.row([message.id.clone(), message.deliveries.to_string(), cause, text].map(Into::into));
        }
        return context.table(&table);
    };
    let ids = (!ids.is_empty()).then_some(ids);
    let mut total = 0;
    loop {
        let request = ReturnRequest { ids: ids.clone(), dry_run: dead.dry_run };
        let answer = context.post::<ReturnedReply>(&path(&dead.queue, "/dead/return"), &request).await?;
        let Some(answer) = answer else { return Ok(()) };
        total += answer.returned;
        if ids.is_some() || dead.dry_run || answer.left == 0 || answer.returned == 0 {
            let total = if dead.dry_run && ids.is_none() { answer.left } else { total };
            let would = if dead.dry_run { "would be " } else { "" };
            return context.line(format!("{} {would}returned", show_count(total)));
        }
    }
}

/// Runs `reeve queue route`.
pub async fn route(command: RouteCommand, context: &mut Context) -> Result<(), Error> {
    if let Some(labels) = command.explain {
        let request = ExplainRequest { labels: labels.into_iter().collect() };
        let Some(answer) = context.post::<Explained>("/v1/routes/explain", &request).await? else {
            return Ok(());
        };
        for passed in &answer.passed {
            context.line(format!("not {}", Clean::line(passed)))?;
        }
        return match answer.route {
            Some(route) => context.line(format!("{} -> {}", route.name, route.queues.join(", "))),
            None => context.line("no route takes these labels: publishing is refused"),
        };
    }
    let action = match command.action {
        Some(Action::Publish(given)) => return publish(given, context).await,
        None => {
            let Some(Routes { routes }) = context.get("/v1/routes").await? else { return Ok(()) };
            return show(&routes, context);
        }
        Some(action) => action,
    };
    let client = context.client()?;
    let Routes { mut routes } = client.get("/v1/routes").await?;
    match action {
        Action::Publish(_) => {}
        Action::Set(set) => put(&mut routes, set)?,
        Action::Rm { name } => {
            let before = routes.len();
            routes.retain(|r| r.name != name);
            if routes.len() == before {
                return Err(Error::Usage(format!("there is no route {}", Clean::short(&name, 64))));
            }
        }
    }
    let body = Routes { routes };
    let Some(answer) = context.ask::<Routes>(Method::PUT, "/v1/routes", Some(&body)).await? else {
        return Ok(());
    };
    show(&answer.routes, context)
}

fn put(routes: &mut Vec<Route>, set: SetRoute) -> Result<(), Error> {
    let route = Route { name: set.name, labels: set.label.into_iter().collect(), queues: set.to };
    let stands = routes.iter().position(|r| r.name == route.name);
    if let (Some(at), None) = (stands, &set.before) {
        routes[at] = route;
        return Ok(());
    }
    routes.retain(|r| r.name != route.name);
    let at = match set.before {
        None => routes.len(),
        Some(name) => routes
            .iter()
            .position(|r| r.name == name)
            .ok_or_else(|| Error::Usage(format!("there is no route {}", Clean::short(&name, 64))))?,
    };
    routes.insert(at, route);
    Ok(())
}

fn show(routes: &[Route], context: &mut Context) -> Result<(), Error> {
    if routes.is_empty() {
        note("no routes");
    }
    let mut table = Table::new(&["ROUTE", "LABELS", "QUEUES"]);
    for route in routes {
        let labels: Vec<String> = route.labels.iter().map(|(k, v)| format!("{k}={v}")).collect();
        let labels = if labels.is_empty() { "any".to_owned() } else { labels.join(" ") };
        table.row([route.name.clone(), labels, route.queues.join(",")].map(Into::into));
    }
    context.table(&table)
}

async fn publish(publish: PublishRouted, context: &mut Context) -> Result<(), Error> {
    let client = context.client()?;
    let message = message(values::text_or_file(&publish.body)?);
    let request = RoutedRequest { labels: publish.label.into_iter().collect(), message };
    let body = serde_json::to_vec(&request).map_err(|e| Error::Usage(e.to_string()))?;
    let reply = submit::post(&client, "/v1/publish", publish.key, body.into()).await?;
    if context.json {
        context.raw(&reply.body)?;
        return context.raw(b"\n");
    }
    let answer: RoutedReply = reply.json()?;
    for one in &answer.published {
        context.line(format!("{} {}", one.queue, Clean::line(&one.id)))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn set(name: &str, before: Option<&str>) -> SetRoute {
        SetRoute { name: name.into(), label: vec![], to: vec!["q".into()], before: before.map(str::to_owned) }
    }

    #[test]
    fn rules_keep_their_place_unless_they_are_given_another() {
        let mut routes = Vec::new();
        for name in ["a", "b", "c"] {
            put(&mut routes, set(name, None)).unwrap();
        }
        put(&mut routes, set("c", Some("a"))).unwrap();
        put(&mut routes, set("a", None)).unwrap();
        let names: Vec<&str> = routes.iter().map(|r| r.name.as_str()).collect();
        assert_eq!(names, ["c", "a", "b"]);
        assert!(put(&mut routes, set("d", Some("x"))).is_err());
    }
}
