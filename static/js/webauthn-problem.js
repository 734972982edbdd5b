// Says on the page why a passkey could not be used; allauth only writes it to the console.
(() => {
  const box = document.getElementById("webauthn_problem");
  const card = document.querySelector(".card");
  if (!box || !card) return;
  card.prepend(box);
  document.addEventListener("allauth.error", (event) => {
    const error = event.detail.exception;
    const cancelled = error && error.name === "NotAllowedError";
    const known = error && error.name === "InvalidStateError";
    const number = /^[\d.]+$|:/.test(location.hostname); // a passkey belongs to a name
    box.textContent = known
      ? "This device is already among your passkeys."
      : cancelled
        ? "The passkey was not used: it was cancelled, or took too long."
        : number
          ? "Passkeys need the name of this site: open it as localhost, or by its host name."
          : "The passkey could not be used in this browser.";
    box.hidden = false;
    event.preventDefault();
  });
})();
