// Asks before something is deleted, then goes back to the list of projects.
export function askFirst(button, action) {
  const dialog = document.getElementById("confirm");
  button.addEventListener("click", () => {
    dialog.returnValue = "no";
    dialog.showModal();
  });
  dialog.addEventListener("close", async () => {
    if (dialog.returnValue !== "yes") return;
    try {
      await action();
      location.href = "/teach";
    } catch (error) {
      document.getElementById("state").textContent = error.message;
    }
  });
}
