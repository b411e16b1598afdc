"use strict";
// A served page asks every two seconds whether its run went on, and then takes over what is new.
const Live = (() => {
  let version = document.body.dataset.live;

  async function look() {
    const answer = await fetch("sections", { headers: { "If-None-Match": version } });
    if (answer.status !== 200) return;
    version = answer.headers.get("ETag");
    const main = document.getElementById("sections");
    const open = [...main.querySelectorAll("details[open]")].map((details) => details.id);
    const focus = document.activeElement?.closest("#sections [id]")?.id;
    main.innerHTML = await answer.text();
    Charts.draw();
    for (const id of open) document.getElementById(id)?.setAttribute("open", "");
    if (focus) document.getElementById(focus)?.focus({ preventScroll: true });
    Reader.offer();
  }

  async function follow() {
    try {
      await look();
      document.body.removeAttribute("data-lost");
    } catch (error) {
      if (!(error instanceof TypeError)) throw error; // what fetch throws when the server is gone
      document.body.setAttribute("data-lost", "");
    } finally {
      setTimeout(follow, 2000);
    }
  }

  if (version) setTimeout(follow, 2000);
})();
