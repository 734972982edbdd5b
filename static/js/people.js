// Copying a new key, and choosing "only those" with the first service. Without it the page still works.
(function () {
  "use strict";

  document.querySelectorAll("[data-copy]").forEach(function (button) {
    var field = document.getElementById(button.dataset.copy);
    var told = document.getElementById("copied");
    if (!navigator.clipboard) return; // only on secure origins
    button.hidden = false;
    button.addEventListener("click", function () {
      field.select();
      navigator.clipboard.writeText(field.value).then(function () {
        told.textContent = button.dataset.copied;
      });
    });
  });

  document.addEventListener("change", function (event) {
    if (event.target.name !== "toolkits" || !event.target.checked) return;
    var some = document.querySelector('input[name="reach"][value="some"]');
    if (some) some.checked = true;
  });
})();
