/** One plugin a concern. `core` and `cells` are what the others share; other extensions may ask for them too. */
import { cells } from './plugins/cells';
import { commands } from './plugins/commands';
import { core } from './plugins/core';
import { keys } from './plugins/keys';
import { launcher } from './plugins/launcher';
import { notifications } from './plugins/notifications';
import { panel } from './plugins/panel';
import { scaling } from './plugins/scaling';
import { settings } from './plugins/settings';
import { statusbar } from './plugins/statusbar';

export { ICells, INbgpu, IPresentation } from './tokens';

export default [core, cells, settings, commands, scaling, keys, panel, launcher, statusbar, notifications];
