// The coordinator's page. It shows what the coordinator knows, and has passkeys
// sign; every machine checks for itself what was signed.
"use strict";

const main = document.getElementById("main"), dialog = document.getElementById("dialog");
let hello = null, view = null, stream = null, filter = "", shownKey = "";

// An element: tag, attributes (functions are listeners), children.
function h(tag, attributes, ...children) {
  const e = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes || {})) {
    if (typeof value === "function") e.addEventListener(name, value);
    else if (value === true) e.setAttribute(name, "");
    else if (value !== false && value !== undefined) e.setAttribute(name, value);
  }
  e.append(...children.flat(9).filter(c => c !== null && c !== undefined && c !== false));
  return e;
}
const button = (text, act, kind) => h("button", { type: "button", class: kind, click: act }, text);
const mono = text => h("span", { class: "mono" }, text);

// say tells where it is seen and heard: in the dialog, while one is open.
function say(text, kind) {
  if (dialog.open && text) {
    let s = dialog.querySelector("[role=alert]");
    if (!s) dialog.append(s = h("p", { role: "alert" }));
    s.className = kind || "";
    s.textContent = text[0].toUpperCase() + text.slice(1);
    s.scrollIntoView({ block: "nearest" });
    return;
  }
  for (const s of dialog.querySelectorAll("[role=alert]")) s.remove();
  const s = document.getElementById("status");
  s.textContent = text && text[0].toUpperCase() + text.slice(1);
  s.className = kind || "";
}

// ask sends a request; an error says what to do.
async function ask(path, body) {
  let response;
  try {
    const headers = view ? { "Sessio-Account": view.account } : {};
    response = await fetch("/api/" + path, { signal: AbortSignal.timeout(30000), headers, ...(body === undefined ? {} : { method: "POST", headers: { ...headers, "Content-Type": "application/json" }, body: JSON.stringify(body) }) });
  } catch {
    throw new Error("The coordinator does not answer. Is this machine online? Try again.");
  }
  const out = await response.json().catch(() => ({ error: "The coordinator answers with " + response.status + "." }));
  if (response.ok) return out;
  if (response.status === 401 && view) signedOut();
  if (out.code === "other-account") location.reload();
  throw Object.assign(new Error(out.error + (out.hint ? ". " + out.hint : "")), { code: out.code });
}

// during runs an act of a button: busy while it lasts, its error said.
function during(act) {
  return async event => {
    const b = event.currentTarget || event.target;
    if (event.preventDefault) event.preventDefault();
    const pressed = b.matches("form") ? b.querySelector("button[type=submit]") : b;
    pressed.disabled = true;
    say("");
    try { await act(event); } catch (e) { say(passkeyTrouble(e), "bad"); }
    pressed.disabled = false;
  };
}

function when(seconds) { return seconds ? new Date(seconds * 1000).toLocaleString(undefined, { dateStyle: "medium", timeStyle: "short" }) : "never"; }
function ago(seconds) {
  const s = Math.max(0, Date.now() / 1000 - seconds);
  if (s < 120) return "a minute ago";
  if (s < 7200) return Math.round(s / 60) + " minutes ago";
  if (s < 172800) return Math.round(s / 3600) + " hours ago";
  return Math.round(s / 86400) + " days ago";
}

function facts(list) {
  return h("dl", {}, list.map(([what, value]) => [h("dt", {}, what), h("dd", {}, value)]));
}

function copyButton(get) {
  const b = button("Copy", async () => {
    try {
      await navigator.clipboard.writeText(get());
      b.textContent = "Copied";
    } catch { b.textContent = "Select it and copy"; }
    setTimeout(() => { b.textContent = "Copy"; }, 2000);
  }, "quiet");
  return b;
}

// A dialog with a title. It is closed by Escape, by its button, or by done().
function open(title, ...children) {
  dialog.replaceChildren(h("h2", { id: "dialog-title", tabindex: "-1" }, title), ...children.flat(9).filter(Boolean));
  if (!dialog.open) dialog.showModal();
  dialog.querySelector("#dialog-title").focus();
}
function done(text) {
  dialog.close();
  say(text, "good");
}
const cancel = () => button("Close", () => dialog.close(), "quiet");
dialog.addEventListener("close", () => { shownKey = ""; dialog.replaceChildren(); });

// sure asks before something that cannot be taken back.
function sure(title, about, text, act) {
  open(title, h("p", {}, about), h("div", { class: "row" }, button(text, during(act), "danger"), cancel()));
}

function field(label, id, value, hint) {
  return [h("label", { for: id }, label), h("input", { type: "text", id, value, autocomplete: "off", autocapitalize: "none", spellcheck: "false", "aria-describedby": hint ? id + "-hint" : undefined }),
    hint ? h("p", { class: "hint", id: id + "-hint" }, hint) : null];
}
const typed = id => document.getElementById(id).value.trim();
const words = id => typed(id).split(/[\s,]+/).filter(Boolean);
function checks(legend, name, options, chosen) {
  return h("fieldset", {}, h("legend", {}, legend), options.map(([value, text]) =>
    h("label", { class: "check" }, h("input", { type: "checkbox", name, value, checked: chosen.includes(value) }), text)));
}
const ticked = name => [...dialog.querySelectorAll(`input[name=${name}]:checked`)].map(i => i.value);

// Signing in.

function signedOut() {
  view = null;
  hello.signedIn = false;
  if (stream) stream.close();
  stream = null;
  dialog.close();
  say("");
  showSignin("Your sign-in is over. Sign in again to go on.");
}

function alone(...children) {
  document.getElementById("nav").hidden = true;
  main.replaceChildren(...children.flat(9).filter(Boolean));
  main.focus();
}

async function signin(narrow) {
  const asked = await ask("signin/begin", {});
  const known = localStorage.getItem("sessio-key");
  if (narrow && known) asked.credentials = [known];
  const answer = await usePasskey(asked);
  await ask("signin/finish", { flow: asked.flow, answer });
  localStorage.setItem("sessio-key", answer.id);
  await start();
}

async function prove() {
  const asked = await ask("prove/begin", {});
  const answer = await usePasskey(asked);
  await makeSignin(await ask("prove/finish", { flow: asked.flow, answer }));
}

// makeSignin has a passkey made that signs in, and signs in with it.
async function makeSignin(asked) {
  const own = view && view.words === asked.account;
  open("Make a passkey that signs in", facts([["account", asked.account], ["by the word of", asked.label]]),
    own ? null : h("p", {}, h("strong", {}, "Compare these words with your account's"), " (sessio account sign-in prints them, and every machine that joins): whoever sent you this address may have sent you to an account of theirs."),
    h("p", {}, "The passkey opens this page and can sign nothing.", !own && hello.signedIn ? " You are signed in here already: that ends." : ""), h("div", { class: "row" }, button("Make the passkey", during(async () => {
    const answer = await makePasskey(asked);
    await ask("enrol/finish", { flow: asked.flow, answer });
    localStorage.setItem("sessio-key", answer.id);
    history.replaceState(null, "", "/#devices");
    done("This passkey signs in from now on.");
    await start();
  })), cancel()));
}

function showSignin(why) {
  const known = localStorage.getItem("sessio-key");
  alone(h("h1", {}, "Sign in"), why ? h("p", { class: "bad" }, why) : null,
    h("p", {}, "With the passkey that is called “… – sign in”."),
    h("div", { class: "row" }, button("Sign in with the passkey", during(() => signin(true))), known ? button("Another passkey", during(() => signin(false)), "quiet") : null),
    h("details", {}, h("summary", {}, "The passkey that signs in is lost"),
      h("p", {}, "Who may sign for the account may have a new one made. With the passkey that is called “… – ADD OR REMOVE DEVICES”, do it here. With a key, the recovery key or a passkey of another page, run on a machine of the account:"),
      h("pre", {}, "sessio account sign-in"),
      button("Use the signing passkey", during(prove), "quiet")),
    hello.signup === "open" ? h("p", {}, h("a", { href: "#register" }, "Make an account")) : null,
    hello.signup === "closed" ? null : hello.signup === "claim" ? h("p", {}, "There is no account here yet: open the whole address that the coordinator has printed when it started.") : null);
}

// Making an account.

function showRegister(claim) {
  alone(h("h1", {}, "Make your account"),
    h("p", {}, "Two passkeys are made: one opens this page, the other says who belongs to the account and is used for nothing else. Then a recovery key is shown, once."),
    h("form", { submit: during(() => register(claim)) }, field("A name for you", "label", "owner", "a to z, 0 to 9 and dashes; your devices see it in the history"),
      h("div", { class: "row" }, h("button", { type: "submit" }, "1. Make the passkey that signs in"))),
    h("p", { class: "hint" }, "The coordinator serves this page. Who does not want to trust it while signing makes the account on a machine: sessio account create -passkey."));
}

const base32 = "abcdefghijklmnopqrstuvwxyz234567";
function encode32(bytes) {
  let out = "", bits = 0, value = 0;
  for (const b of bytes) {
    value = value << 8 | b;
    for (bits += 8; bits >= 5; bits -= 5) out += base32[value >> (bits - 5) & 31];
    value &= (1 << bits) - 1;
  }
  return bits ? out + base32[value << (5 - bits) & 31] : out;
}
const sha256 = async (...parts) => new Uint8Array(await crypto.subtle.digest("SHA-256", await new Blob(parts).arrayBuffer()));

// A recovery key is drawn and spelt here; only its public half leaves the page.
async function newRecoveryKey() {
  const seed = crypto.getRandomValues(new Uint8Array(32)), head = Uint8Array.of(1, ...seed);
  const sum = await sha256("sessio-recovery-v1\n", head);
  const pkcs8 = Uint8Array.of(0x30, 0x2e, 2, 1, 0, 0x30, 5, 6, 3, 0x2b, 0x65, 0x70, 4, 0x22, 4, 0x20, ...seed);
  let key;
  try {
    key = await crypto.subtle.importKey("pkcs8", pkcs8, "Ed25519", true, ["sign"]);
  } catch { throw new Error("This browser cannot make a recovery key (Ed25519). Take a current one, or run on a machine: sessio account create -passkey."); }
  return { text: encode32(Uint8Array.of(...head, sum[0], sum[1])).match(/.{4}/g).join("-"), pub: (await crypto.subtle.exportKey("jwk", key)).x };
}

async function register(claim) {
  const label = typed("label"), recovery = await newRecoveryKey(); // first: a browser may not be able to
  const first = await ask("register/begin", { claim, label });
  const signin = await makePasskey(first);
  let next = await ask("register/signin", { flow: first.flow, answer: signin });
  alone(h("h1", {}, "Make your account"), h("p", {}, "Now the passkey that signs. It is called “", next.userName, "”: nothing but adding or removing devices and signers ever asks for it."),
    h("div", { class: "row" }, button("2. Make the passkey that signs", during(async () => {
      const answer = await makePasskey(next);
      const genesis = await ask("register/signer", { flow: next.flow, answer, recovery: recovery.pub });
      showRecovery(genesis, recovery.text, signin.id);
    }))));
}

function showRecovery(genesis, recovery, signinID) {
  const groups = recovery.split("-"), last = groups.slice(-2).join("-");
  alone(h("h1", {}, "The recovery key"),
    h("p", {}, "Write it on paper and keep that safe. It is shown this once, and is the only way back when the passkey that signs is lost."),
    h("p", { class: "mono recovery", id: "recovery" }, recovery), h("div", { class: "row" }, copyButton(() => recovery)),
    h("form", { submit: during(async () => {
      if (typed("again").toLowerCase().replace(/[^a-z2-7]/g, "") !== last.replace("-", "")) throw new Error("That is not how the recovery key ends: compare it with the paper.");
      const answer = await usePasskey(genesis.need[0]);
      await ask("register/finish", { flow: genesis.flow, answer }).catch(e => { if (e.code !== "account-made") throw e; });
      localStorage.setItem("sessio-key", signinID);
      history.replaceState(null, "", "/#devices");
      await start();
    }) }, field("Its last two groups, from the paper", "again", ""),
      h("details", {}, h("summary", {}, "What will be signed"), facts(genesis.facts), h("pre", {}, genesis.text)),
      h("div", { class: "row" }, h("button", { type: "submit" }, "3. Sign: make the account"))));
}

// Signing a statement: it is shown, then the passkey is asked.

async function toSign(wish) { confirmStatement(await ask("statement", wish)); }

function confirmStatement(st, said) {
  open(st.title, facts(st.facts),
    h("details", {}, h("summary", {}, "The statement, as it will be signed"), h("pre", {}, st.text)),
    h("p", { class: "hint" }, "Every device of the account checks this signature, and shows these words as its log's head once it knows: ", h("span", { class: "words" }, st.words)),
    h("div", { class: "row" }, button(st.need.length > 1 ? "Sign: the account's passkey, then the new one" : "Sign with the passkey", during(async () => {
      const answers = [];
      for (const asked of st.need) answers.push(await usePasskey(asked));
      try { await ask("sign", { text: st.text, answers }); } catch (e) {
        if (e.code === "stale-head") { dialog.close(); throw new Error("Something else was signed meanwhile: begin again."); }
        throw e;
      }
      done(said || "Signed. The devices know it in a moment.");
    })), cancel()));
}

// The devices.

function showDevices() {
  const list = view.devices.filter(d => !filter || (d.categories || []).includes(filter));
  return [h("div", { class: "row between" }, h("h1", {}, "Devices"), button("Add a device", addDevice)),
    view.waiting.length ? [h("h2", {}, "Waiting for your signature"), h("ul", { class: "cards" }, view.waiting.map(waitingCard))] : null,
    view.tickets.length ? h("p", { class: "soft" }, "Tickets that nobody has used: ", view.tickets.map(t => [h("span", {}, t.name || "without a name", ", good until ", new Date(t.expires * 1000).toLocaleTimeString(undefined, { timeStyle: "short" }), " "),
      button("Take back", during(() => ask("ticket/cancel", { hash: t.hash })), "chip"), " "])) : null,
    view.categories.length ? h("div", { class: "row", role: "group", "aria-label": "Categories" }, ["", ...view.categories].map(c =>
      h("button", { type: "button", class: "chip", "aria-pressed": String(filter === c), click: () => { filter = c; render(); } }, c || "all"))) : null,
    view.devices.length ? h("ul", { class: "cards", id: "devices" }, list.map(deviceCard)) : h("div", { class: "card" }, h("p", {}, "No device yet. “Add a device” makes a line that you paste on a machine; the machine then waits here for your signature. Nobody but you can let one in."))];
}

function deviceCard(d) {
  const state = d.online ? h("span", { class: "online" }, "online") : h("span", { class: "offline" }, d.seen ? "seen " + ago(d.seen) : "not seen yet");
  return h("li", { class: "card", "data-device": d.name }, h("div", { class: "row between" }, h("h3", {}, d.name), state),
    h("p", { class: "soft" }, d.roles.join(" and "), ", users ", d.users.join(", ") || "none", d.expires ? (d.expired ? ", expired " : ", until ") + when(d.expires) : "", d.version ? ", version " + d.version : ""),
    (d.categories || []).length ? h("p", { class: "row" }, d.categories.map(c => h("span", { class: "chip" }, c))) : null,
    h("div", { class: "row" }, button("Details", () => showDevice(d), "quiet"), button("Change", () => changeDevice(d), "quiet"), button("Throw out", () => revokeDevice(d), "quiet")));
}

function waitingCard(w) {
  return h("li", { class: "card asks", "data-waiting": w.name }, h("h3", {}, w.name || w.id),
    h("p", {}, "words ", h("strong", { class: "words" }, w.words)), h("p", { class: "mono soft" }, w.fingerprint),
    h("p", { class: "soft" }, "from ", w.from, ", ", ago(w.since), w.login ? ", as " + w.login : ""),
    h("div", { class: "row" }, button("Compare and sign", () => signDevice(w)), button("Refuse", () => sure("Send " + (w.name || w.id) + " away?", "Its ticket is used up: to ask again it needs a new one.", "Refuse", async () => { await ask("waiting/refuse", { device: w.id }); done("Sent away: " + (w.name || w.id)); }), "quiet")));
}

function showDevice(d) {
  open(d.name, facts([["device", d.id], ["fingerprint", d.fingerprint], ["words", d.words], ["roles", d.roles.join(", ")], ["users", d.users.join(", ")], ["may do", d.caps.join(", ")],
    ["signed until", d.expires ? when(d.expires) : "for ever"], ["version", d.version || "not known"]]),
  field("Categories", "categories", (d.categories || []).join(" "), "labels to sort by, the coordinator's alone: nobody signs them"),
  h("div", { class: "row" }, button("Save the categories", during(async () => { await ask("categories", { device: d.id, categories: words("categories") }); done("Sorted."); })), cancel()));
}

const roleChoice = [["server", "may be entered"], ["client", "may enter others"]];
const capChoice = ["shell", "exec", "sftp", "forward", "pty"].map(c => [c, c]);
const lifeChoice = [["0", "for ever"], ["2592000", "30 days"], ["31536000", "a year"]];
const lives = until => [h("label", { for: "life" }, "The signature is good"), h("select", { id: "life" },
  [...(until * 1000 > Date.now() ? [["until " + until, "as now, until " + when(until)]] : []), ...lifeChoice].map(([v, t]) => h("option", { value: v }, t)))];
const life = () => typed("life").startsWith("until ") ? Math.max(1, Math.round(Number(typed("life").slice(6)) - Date.now() / 1000)) : Number(typed("life"));

function noPasskeyHere(command) {
  open("Sign on a machine", h("p", {}, "None of the account's passkeys signs on this page. On a machine of the account run:"), h("pre", {}, command), h("div", { class: "row" }, copyButton(() => command), cancel()));
}

function signDevice(w) {
  if (!view.signsHere) return noPasskeyHere("sessio trust sign " + (w.name || w.id));
  open("Let " + (w.name || "this machine") + " in?", facts([["fingerprint", w.fingerprint], ["words", w.words], ["from", w.from]]),
    h("p", {}, h("strong", {}, "Compare these words with those that the machine shows."), " If they differ, somebody stands between you and it: refuse."),
    field("Name", "name", w.name), checks("It", "roles", roleChoice, w.roles || ["server"]),
    field("Logins that may be taken there", "users", (w.users || []).join(" "), "with spaces between; * is any; left empty: " + (w.login || "none") + ", for who only enters others any"), lives(),
    h("div", { class: "row" }, button("The words agree: go on", during(() => toSign({ op: "device.add", device: w.id, name: typed("name"), roles: ticked("roles"), users: words("users"), caps: w.caps || [], expires: life() }))), cancel()));
}

function changeDevice(d) {
  if (!view.signsHere) return noPasskeyHere("sessio trust update " + d.name + " -users …");
  open("Change " + d.name, field("Name", "name", d.name), checks("It", "roles", roleChoice, d.roles), field("Logins that may be taken there", "users", d.users.join(" "), "with spaces between; * is any"),
    checks("They may use", "caps", capChoice, d.caps), lives(d.expires),
    h("div", { class: "row" }, button("Go on", during(() => toSign({ op: "device.update", device: d.id, name: typed("name"), roles: ticked("roles"), users: words("users"), caps: ticked("caps"), expires: life() }))), cancel()));
}

function revokeDevice(d) {
  if (!view.signsHere) return noPasskeyHere("sessio trust revoke " + d.name);
  open("Throw " + d.name + " out?", h("p", {}, "For ever: its key is never let in again, what it has open ends within seconds. To come back it needs a new identity."),
    h("label", { for: "reason" }, "Why"), h("select", { id: "reason" }, ["lost", "stolen", "retired"].map(r => h("option", {}, r))),
    h("div", { class: "row" }, button("Go on", during(() => toSign({ op: "device.revoke", devices: [d.id], reason: typed("reason") })), "danger"), cancel()));
}

function addDevice() {
  open("Add a device", h("form", { submit: during(makeTicket) }, field("Name", "name", "", "left empty: the machine's own"), checks("It", "roles", roleChoice, ["server"]),
    field("Logins that may be taken there", "users", "", "left empty: the login that joins"), field("Categories", "categories", "", "to sort by, with spaces between"),
    h("div", { class: "row" }, h("button", { type: "submit" }, "Make the ticket"), cancel())));
  document.getElementById("name").focus();
}

// The ticket's secret is drawn here: the coordinator learns its hash alone.
async function makeTicket() {
  const secret = crypto.getRandomValues(new Uint8Array(16)), hash = await sha256("sessio-ticket-v1\n", secret);
  const wish = { hash: text(hash), name: typed("name"), roles: ticked("roles"), users: words("users"), caps: [], categories: words("categories") };
  const made = await ask("ticket", wish);
  const ticket = view.ticket + "/" + encode32(secret), join = "sessio join " + ticket;
  const left = h("strong", { role: "timer" });
  const lines = [["On the machine, run", join]];
  if (view.install) lines.push(["Or, where Sessio is not installed yet", view.install[0].replace("TICKET", ticket)], ["The same where curl is missing", view.install[1].replace("TICKET", ticket)]);
  open("Bring the machine in", lines.map(([what, line]) => [h("p", {}, what), h("pre", {}, line), h("div", { class: "row" }, copyButton(() => line))]),
    h("p", {}, "Good once, for ", left, ". Who has it may ask to join; only you let it in."), qrImage(ticket, "The ticket as a QR code"),
    h("p", { class: "hint" }, "Then compare the words that it shows, and sign: it appears under Devices."), h("div", { class: "row" }, cancel()));
  shownKey = wish.hash;
  const count = () => {
    const s = Math.max(0, Math.round(made.expires - Date.now() / 1000));
    left.textContent = s ? Math.floor(s / 60) + ":" + String(s % 60).padStart(2, "0") : "no longer: make a new one";
    if (s && shownKey === wish.hash) setTimeout(count, 1000);
  };
  count();
}

// Running sessions.

function showSessions() {
  const act = (what, body, said) => during(async () => { await ask("sessions/" + what, body); say(said, "good"); });
  return [h("div", { class: "row between" }, h("h1", {}, "Sessions"), view.sessions.length ? button("Revoke all", () => open("Revoke all sessions?", h("p", {}, "Every connection between your devices ends now. They may be introduced anew: to keep one out, throw it out."),
    h("div", { class: "row" }, button("Revoke all", during(async () => { await ask("sessions/revoke", { all: true }); done("All sessions are revoked."); }), "danger"), cancel())), "quiet") : null),
    h("p", {}, "By a session one device enters another; it is made when they are introduced. Ending closes what runs in it; revoking closes it for good."),
    view.sessions.length ? h("table", {}, h("thead", {}, h("tr", {}, ["from", "into", "since", "until", "connections", ""].map(t => h("th", { scope: "col" }, t)))), h("tbody", {}, view.sessions.map(s => h("tr", { "data-session": s.id },
      h("td", { "data-th": "from" }, s.client), h("td", { "data-th": "into" }, s.device), h("td", { "data-th": "since" }, when(s.made)), h("td", { "data-th": "until" }, s.revoked ? "revoked" : s.expires ? when(s.expires) : "for ever"), h("td", { "data-th": "connections" }, String(s.live)),
      h("td", { class: "row" }, s.live && !s.revoked ? button("End", act("end", { id: s.id }, "Ended."), "quiet") : null, s.revoked ? null : button("Revoke", () => sure("Revoke this session?", "What " + s.client + " has open on " + s.device + " by it ends now.", "Revoke", async () => { await ask("sessions/revoke", { id: s.id }); done("Revoked."); }), "quiet"))))))
      : h("div", { class: "card" }, h("p", {}, "Nobody is in. When one of your devices enters another, you see it here, and may end it."))];
}

// Who signs and who signs in.

function showSigners() {
  const powers = { d: "devices", s: "signers", ds: "devices and signers", r: "recovery" };
  return [h("div", { class: "row between" }, h("h1", {}, "Signers"), button("Add a passkey that signs", addSigner)),
    h("p", {}, "Who may say which devices belong to the account. One is little: if it is lost, the recovery key is the only way back."),
    h("ul", { class: "cards" }, view.signers.map(s => h("li", { class: "card", "data-signer": s.label }, h("h3", {}, s.label), h("p", {}, "signs for ", powers[s.powers], s.here ? ", here" : ""), h("p", { class: "mono soft" }, s.key + " " + s.fingerprint),
      s.powers === "r" ? null : h("div", { class: "row" }, button("Remove", during(() => toSign({ op: "signer.remove", signer: s.id })), "quiet"))))),
    h("details", {}, h("summary", {}, "A passkey that signs is lost"), h("p", {}, "If another one is left, remove the lost one here. If none is, run this on a machine that has Sessio, with the recovery key at hand; it makes a new passkey and removes every other signer:"), h("pre", {}, "sessio trust recover -passkey " + view.ticket)),
    h("div", { class: "row between" }, h("h2", {}, "Passkeys that sign in"), button("Add one", addSignin, "quiet")),
    h("ul", { class: "cards" }, view.passkeys.map(k => h("li", { class: "card", "data-passkey": k.id }, h("h3", {}, k.label, k.own ? " (this sign-in)" : ""), h("p", { class: "soft" }, "made ", when(k.made), ", used ", when(k.used)),
      h("div", { class: "row" }, button("Remove", () => sure("Remove the passkey " + k.label + "?", "It signs in no more, and who came by it is signed out.", "Remove", async () => { await ask("passkey/remove", { id: k.id }); done("Removed: " + k.label); }), "quiet")))))];
}

function addSigner() {
  open("Add a passkey that signs", h("form", { submit: during(async () => {
    const asked = await ask("signer/begin", { label: typed("label"), powers: typed("powers") });
    const answer = await makePasskey(asked);
    confirmStatement(await ask("signer/finish", { flow: asked.flow, answer }), "Added.");
  }) }, field("Name", "label", "second", "a to z, 0 to 9 and dashes"), h("label", { for: "powers" }, "It signs for"),
    h("select", { id: "powers" }, [["ds", "devices and signers"], ["d", "devices"], ["s", "signers"]].map(([v, t]) => h("option", { value: v }, t))),
    h("div", { class: "row" }, h("button", { type: "submit" }, "Make the passkey"), cancel())));
}

function addSignin() {
  open("Add a passkey that signs in", h("form", { submit: during(async () => makeSignin(await ask("passkey/begin", { label: typed("label") }))) },
    field("Name", "label", "second", "a to z, 0 to 9 and dashes"), h("div", { class: "row" }, h("button", { type: "submit" }, "Go on"), cancel())));
}

// History and account.

function showHistory() {
  const list = h("ol", { class: "cards", reversed: true, "aria-busy": "true" });
  ask("log").then(records => {
    list.replaceChildren(...records.map(r => h("li", { class: "card" }, h("h3", {}, r.seq + ". " + r.title), h("p", { class: "soft" }, when(r.time), ", by ", r.by.join(" and "), ", ", r.words), facts(r.facts),
      h("details", {}, h("summary", {}, "The statement"), h("pre", {}, r.text)))));
  }).catch(e => say(e.message, "bad")).finally(() => list.removeAttribute("aria-busy"));
  return [h("h1", {}, "History"), h("p", {}, "Every change of the account, each signed; no line can be taken out or put in between. Devices keep the same list."), list];
}

function showAccount() {
  return [h("h1", {}, "Account"), facts([["account", view.account], ["its words", view.words], ["log", "record " + view.seq + ", " + view.head], ["coordinator", hello.coordinator], ["signed in until", when(view.expires)]]),
    h("div", { class: "row" }, h("a", { href: "/api/export", download: true }, "Export the account"), button("Sign out", during(async () => { await ask("signout", {}); signedOut(); showSignin(); }), "quiet"),
      button("Sign out everywhere else", during(async () => { await ask("signout/others", {}); say("Only this browser is signed in.", "good"); }), "quiet")),
    view.builds ? [h("h2", {}, "Builds that the coordinator hands out"), h("p", {}, "Compare their SHA-256 with those of a place that you trust before you let a machine run them."),
      h("ul", { class: "cards" }, view.builds.map(b => h("li", { class: "card" }, h("h3", {}, b.name), h("p", { class: "mono soft" }, b.sum), h("p", { class: "soft" }, (b.size / 1e6).toFixed(1) + " MB"))))] : null,
    h("p", { class: "hint" }, "The export has the whole log and what the coordinator keeps beside it. It holds no secret that would let anybody in.")];
}

const parts = { devices: ["Devices", showDevices], sessions: ["Sessions", showSessions], signers: ["Signers", showSigners], history: ["History", showHistory], account: ["Account", showAccount] };

// Where the focus is: a control of which item.
const items = "[data-device], [data-waiting], [data-signer], [data-session], [data-passkey]";
function place(e) {
  const item = e.closest(items);
  return (item ? JSON.stringify(item.dataset) : "") + e.tagName + e.textContent;
}

function render(moved) {
  const name = Object.hasOwn(parts, location.hash.slice(1)) ? location.hash.slice(1) : "devices", nav = document.getElementById("nav");
  nav.hidden = false;
  nav.replaceChildren(...Object.entries(parts).map(([n, [title]]) => h("a", { href: "#" + n, "aria-current": n === name ? "page" : undefined }, title)));
  document.title = parts[name][0] + " – Sessio";
  if (!moved && name === "history" && main.dataset.seq === String(view.seq)) return;
  main.dataset.seq = view.seq;
  const focused = main.contains(document.activeElement) && document.activeElement !== main ? place(document.activeElement) : "";
  main.replaceChildren(...parts[name][1]().flat(9).filter(Boolean));
  if (moved) say("");
  if (moved) main.focus();
  else if (focused) {
    const again = [...main.querySelectorAll("button, a, summary")].find(e => place(e) === focused);
    if (again) again.focus();
  }
  for (const b of main.querySelectorAll(":is(" + items + ") button")) b.setAttribute("aria-label", b.textContent + " " + (b.closest("li, tr").querySelector("h3, td") || b).textContent);
}

function listen() {
  if (stream) stream.close();
  return new Promise(ready => {
    stream = new EventSource("/api/events");
    stream.onmessage = e => { view = JSON.parse(e.data); render(); ready(); };
    stream.addEventListener("signed-out", signedOut);
    stream.onerror = async () => {
      if (!stream || stream.readyState !== EventSource.CLOSED) return say("The coordinator does not answer; trying again …", "bad");
      hello = await ask("hello").catch(() => null);
      if (hello && !hello.signedIn) return signedOut();
      if (!view) alone(h("h1", {}, "No news"), h("p", {}, "The coordinator sends this page no news. Is it open in many tabs? Close some; it tries again by itself."));
      else say("The coordinator sends no news; trying again …", "bad");
      setTimeout(() => listen().then(ready), 3000);
    };
    stream.onopen = () => say("");
  });
}

async function start() {
  hello = await ask("hello");
  document.getElementById("foot").textContent = "Sessio " + hello.build + ", coordinator " + hello.coordinator;
  const fragment = location.hash.match(/^#(claim|enrol)=([a-z2-7]+)$/);
  if (!window.PublicKeyCredential) return alone(h("h1", {}, "No passkeys here"), h("p", {}, "Browsers use passkeys on a page with TLS and a name alone, or on this machine by the name localhost. Open the address that the coordinator's -url names."));
  if (fragment && fragment[1] === "enrol") {
    alone(h("h1", {}, "One more passkey"), h("p", {}, "This address is good once; load it again if you have closed the question."));
    return makeSignin(await ask("enrol/begin", { code: fragment[2] }));
  }
  if (hello.signedIn) return listen();
  if (fragment || hello.signup === "open" && location.hash === "#register") return showRegister(fragment ? fragment[2] : "");
  showSignin();
}

document.querySelector(".skip").addEventListener("click", e => { e.preventDefault(); main.focus(); });
addEventListener("hashchange", () => {
  if (/^#(claim|enrol)=/.test(location.hash) || !view && location.hash === "#register") start().catch(e => say(e.message, "bad"));
  else if (view && (location.hash === "" || Object.hasOwn(parts, location.hash.slice(1)))) render(true);
});
// A page that nobody sees takes no connection.
document.addEventListener("visibilitychange", () => {
  if (!view) return;
  if (document.hidden) { if (stream) stream.close(); stream = null; } else if (!stream) listen();
});
start().catch(e => { alone(h("h1", {}, "This did not work")); say(e.message, "bad"); });
