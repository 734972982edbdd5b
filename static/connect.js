/* Jackfield: opens the connect page in a popup and says how it ended. See docs/embedding.md.

   Jackfield.connect({ url, onSuccess, onError, onClose }) → Promise of { status, accounts, toolkit?, connectionId?, message? } */
(() => {
  "use strict";

  const WIDTH = 480;
  const HEIGHT = 760;
  const POLL = 2000; // ms between questions to the server, once the popup is out of reach
  const PATIENCE = 10 * 60 * 1000; // ms for a person whose provider cut the popup off
  let current = null;

  class ConnectError extends Error {
    constructor(code, text) {
      super(text);
      this.name = "ConnectError";
      this.code = code;
    }
  }

  function openPopup(url) {
    const left = Math.max(0, (window.screenX || 0) + (window.outerWidth - WIDTH) / 2);
    const top = Math.max(0, (window.screenY || 0) + (window.outerHeight - HEIGHT) / 3);
    const place = `left=${Math.round(left)},top=${Math.round(top)}`;
    return window.open(url, "_blank", `popup=yes,width=${WIDTH},height=${HEIGHT},${place}`);
  }

  function checked(text) {
    let url;
    try {
      url = new URL(text);
    } catch {
      throw new ConnectError("bad_url", "The url of a connect session is needed.");
    }
    if (!/^https?:$/.test(url.protocol) || !/\/connect\/open\/[^/]+$/.test(url.pathname)) {
      throw new ConnectError("bad_url", "This is no url of a connect session.");
    }
    url.searchParams.set("origin", window.location.origin);
    return url;
  }

  async function ask(url) {
    const address = new URL(`${url.pathname}/outcome`, url);
    try {
      const answer = await fetch(address, { credentials: "omit", cache: "no-store", referrerPolicy: "no-referrer" });
      return answer.ok ? await answer.json() : null;
    } catch {
      return null; // not allowed to ask, or offline
    }
  }

  const sleep = (time) => new Promise((resolve) => setTimeout(resolve, time));

  function connect(options = {}) {
    const given = options.url ?? options.sessionUrl;
    const outcome = run(given, options);
    outcome.catch(() => {}); // who uses callbacks alone shall see no unhandled rejection
    return outcome;
  }

  async function run(given, options) {
    const call = (name, ...args) => {
      try {
        options[name]?.(...args);
      } catch (error) {
        setTimeout(() => { throw error; }); // the caller's fault is the caller's to see
      }
    };
    const fail = (error) => {
      call("onError", { code: error.code ?? "failed", message: error.code ?? error.message });
      throw error;
    };
    current?.();
    let url = null;
    let popup = null;
    try {
      const isText = typeof given === "string" || given instanceof URL;
      if (isText) url = checked(given);
      popup = openPopup(isText ? url.href : "about:blank"); // before anything is waited for: only a click may open it
      if (!popup) throw new ConnectError("popup_blocked", "The browser opened no popup. Call this in a click.");
      current = () => popup.close();
      if (!isText) {
        url = checked(await (typeof given === "function" ? given() : given));
        popup.location.replace(url.href);
      }
    } catch (error) {
      popup?.close();
      return fail(error);
    }
    return follow(popup, url, call);
  }

  async function follow(popup, url, call) {
    const seen = new Set();
    const accounts = [];
    let failure = null;

    const take = (result) => {
      if (!result?.id || seen.has(result.id)) return;
      seen.add(result.id);
      const { toolkit, connectionId, message } = result;
      if (result.status === "connected") {
        accounts.push({ toolkit, connectionId });
        call("onSuccess", { toolkit, connectionId });
      } else {
        failure = { toolkit, message };
        call("onError", { code: message, toolkit, message });
      }
    };

    const finished = await new Promise((resolve) => {
      const listen = (event) => {
        if (event.source !== popup || event.origin !== url.origin || event.data?.jackfield !== "connect") return;
        if (event.data.event === "result") take(event.data.result);
        if (event.data.event === "done") end(true);
      };
      const watch = setInterval(() => { if (popup.closed) end(false); }, 300);
      const end = (done) => {
        window.removeEventListener("message", listen);
        clearInterval(watch);
        current = null;
        resolve(done);
      };
      current = () => { popup.close(); end(true); };
      window.addEventListener("message", listen);
    });
    popup.close();

    // A provider may have cut the popup off (Cross-Origin-Opener-Policy): it looks closed then, and tells nothing.
    let answer = await ask(url);
    answer?.results.forEach(take);
    const pending = Boolean(!finished && answer?.pending);
    call("onClose", { pending });
    for (const until = Date.now() + PATIENCE; !finished && answer?.pending && Date.now() < until;) {
      await sleep(POLL);
      answer = await ask(url);
      answer?.results.forEach(take);
    }
    if (accounts.length) return { status: "connected", ...accounts.at(-1), accounts };
    return failure ? { status: "error", ...failure, accounts } : { status: "closed", accounts };
  }

  window.Jackfield = Object.assign(window.Jackfield ?? {}, { connect });
})();
