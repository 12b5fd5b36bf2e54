// Deletes all projects of the teach page, after asking.
import { Api } from "./teach_api.js";
import { askFirst } from "./teach_confirm.js";

const erase = document.getElementById("erase");
if (erase) askFirst(erase, () => new Api("").post("erase"));
