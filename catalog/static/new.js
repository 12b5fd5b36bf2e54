// Shows the field that belongs to the chosen source of images.
const radios = document.querySelectorAll("input[name=source]");

function update() {
  const selected = document.querySelector("input[name=source]:checked").value;
  for (const field of document.querySelectorAll("[data-source]")) field.hidden = field.dataset.source !== selected;
}

radios.forEach((radio) => radio.addEventListener("change", update));
update();
